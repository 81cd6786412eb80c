# SPDX-License-Identifier: Apache-2.0
"""Compare a hardened model with its original, check by check, and judge it by a policy."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patcher.errors import InputError
from patcher.evaluation import Target, Triggered, read_triggered
from patcher.gate.accuracy import accuracy_check, agreement_check, clean_images_check
from patcher.gate.alarms import alarm_checks
from patcher.gate.check import CHECKS, Check
from patcher.gate.cost import cost_checks
from patcher.gate.interface import interface_check, operators_check
from patcher.gate.origin import patch_check, provenance_check
from patcher.gate.residual import Picture, probes_check, scanned_check, triggered_check
from patcher.gate.structure import structure_checks
from patcher.gate.subject import Given, Subject, examine, read_hardened
from patcher.gate.verdict import apply_policy
from patcher.model import Model, read_model
from patcher.patch import read_patch
from patcher.policy import Policy, read_policy
from patcher.preparation import Prepared, prepare
from patcher.preprocess import resolve_preprocess
from patcher.report.gate import gate_report
from patcher.report.report import Report
from patcher.settings import Source, split_options
from patcher.trigger import Trigger, read_triggers

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class GateResult:
    """What `verify` found.

    Attributes:
        report: Every check, verdict first.
        checks: The checks in order.
        pictures: Pictures with the worst probe and the given triggers.
        class_names: In class order.
    """

    report: Report
    checks: tuple[Check, ...]
    pictures: tuple[Picture, ...]
    class_names: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the model may ship."""
        return not any(check.failed for check in self.checks)


def verify(
    original: Source,
    hardened: Source,
    *,
    clean_dir: Source,
    policy: Source | Policy | None = None,
    patch: Source | None = None,
    triggers: Source | None = None,
    triggered: Source | None = None,
    target: Target | None = None,
    preprocess: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    today: datetime.date | None = None,
    **options: Any,
) -> GateResult:
    """Decide whether a hardened model may ship.

    Args:
        original: Path of the model before.
        hardened: Path of the model after.
        clean_dir: Clean labelled images; see `patcher.clean_set`.
        policy: Policy file, or the policy itself; ``None`` for the defaults.
        patch: The patch file that made the hardened model.
        triggers: Triggers that a scan estimated (``.npz``).
        triggered: Triggered images with their true labels (``.npz``).
        target: The attacker's class for `triggered`.
        preprocess: Keyword arguments of `patcher.preprocess.resolve_preprocess`.
        progress: Told of each check.
        today: The day on which suppressions are judged.
        options: Fields of `patcher.settings.Settings`.

    Returns:
        The checks and the report; ``result.passed`` says whether the policy is met.

    Raises:
        InputError: A file, folder or option cannot be used.
        UnsupportedGraphError: The original cannot be read faithfully.
    """
    started = time.perf_counter()
    settings, unknown = split_options(options)
    if unknown:
        raise InputError(f"verify: unknown options {', '.join(sorted(unknown))}")
    rules = policy if isinstance(policy, Policy) else read_policy(policy, tuple(CHECKS))
    found_patch = read_patch(patch) if patch is not None else None
    after = read_hardened(Path(hardened), settings)
    model = read_model(Path(original))
    resolved = resolve_preprocess(model, **(preprocess or {}))
    attack = read_triggered(triggered, resolved, target) if triggered is not None else None
    prepared = prepare(model, clean_dir, resolved, settings)
    scanned = read_triggers(triggers) if triggers is not None else ()
    _check_fit(scanned, attack, prepared, model)
    given = Given(found_patch, scanned, attack)
    subject = examine(prepared, after, given, rules, settings)
    found, pictures = _run_checks(subject, progress or _silent)
    checks = apply_policy(found, rules, after.sha256, today or datetime.datetime.now(datetime.UTC).date())
    report = gate_report(subject, checks, time.perf_counter() - started)
    return GateResult(report, checks, tuple(pictures), prepared.clean_set.class_names)


def _run_checks(subject: Subject, progress: Progress) -> tuple[list[Check], list[Picture]]:
    """All checks, in the order of `CHECKS`."""
    found: list[Check] = []
    pictures: list[Picture] = []

    def add(*checks: Check) -> None:
        found.extend(checks)
        progress("checks", len(found), len(CHECKS) - 1)

    add(interface_check(subject), operators_check(subject))
    patched = patch_check(subject)
    add(*structure_checks(subject, patched))
    add(provenance_check(subject), patched)
    add(clean_images_check(subject), accuracy_check(subject), agreement_check(subject))
    for part in (probes_check, scanned_check, triggered_check):
        check, shown = part(subject)
        add(check)
        pictures += shown
    add(*alarm_checks(subject))
    add(*cost_checks(subject))
    return found, pictures


def _check_fit(triggers: tuple[Trigger, ...], attack: Triggered | None, prepared: Prepared, model: Model) -> None:
    """Refuse triggers of another size or of classes that the model does not have."""
    shape = prepared.clean_set.pixels.shape[1:]
    for trigger in triggers:
        if trigger.pattern.shape != shape:
            raise InputError(f"--triggers: pictures of shape {shape} expected, found {trigger.pattern.shape}")
        if not 0 <= trigger.target < model.num_classes:
            raise InputError(f"--triggers: a class from 0 to {model.num_classes - 1} expected, found {trigger.target}")
    if attack is not None and attack.pixels.shape[1:] != shape:
        raise InputError(f"--triggered: pictures of shape {shape} expected, found {attack.pixels.shape[1:]}")
    if attack is not None and isinstance(attack.target, int) and not 0 <= attack.target < model.num_classes:
        raise InputError(f"--target: a class from 0 to {model.num_classes - 1} expected, found {attack.target}")


def _silent(what: str, done: int, total: int) -> None:
    """Report nothing."""
