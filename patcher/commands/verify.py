# SPDX-License-Identifier: Apache-2.0
"""Compare a hardened model with its original, check by check, and judge it by a policy."""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patcher.data.preprocess import resolve_preprocess
from patcher.errors import InputError
from patcher.files import Source
from patcher.gate.check import CHECKS, Check, decided
from patcher.gate.policy import Policy, read_policy
from patcher.gate.policy_outcome import apply_policy
from patcher.gate.run_checks import run_checks
from patcher.gate.subject import Given, Subject, examine, read_hardened
from patcher.gate.triggers import Picture
from patcher.model.model import Model, read_model
from patcher.patch import read_patch
from patcher.progress import Progress, no_progress
from patcher.report.report import Report, Reported
from patcher.report.verify.attestation import attestation_fault
from patcher.report.verify.document import verify_report
from patcher.report.verify.files import write_verify
from patcher.report.verify.html import PerClass
from patcher.settings import settings_alone
from patcher.signing import Signing
from patcher.steps.prepare import Prepared, prepare
from patcher.tasks import Target
from patcher.triggers.file import read_triggers
from patcher.triggers.trigger import Trigger
from patcher.triggers.triggered import Triggered, read_triggered


@dataclass(frozen=True)
class GateResult(Reported):
    """What `verify` found.

    Attributes:
        report: Every check, verdict first.
        checks: The checks in order.
        pictures: Pictures with the worst probe and the given triggers.
        class_names: In class order.
        per_class: Accuracy class by class, of the original and of the hardened model; ``None`` where that does not run.
    """

    report: Report
    checks: tuple[Check, ...]
    pictures: tuple[Picture, ...]
    class_names: tuple[str, ...]
    per_class: PerClass

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that stand in the way."""
        return tuple(check for check in self.checks if check.failed)

    def write(self, folder: Path, hardened: Path) -> None:
        """Write the report in all its formats.

        Args:
            folder: Where to write; made where it is missing.
            hardened: The hardened model, whose path relative to the working directory goes into SARIF.

        Raises:
            InputError: The file system refuses.
        """
        write_verify(self.report, self.pictures, self.class_names, self.per_class, folder, hardened)


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
    attested: Source | None = None,
    signing: Signing | None = None,
    original_signing: Signing | None = None,
    preprocess: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    today: datetime.date | None = None,
    **options: Any,
) -> GateResult:
    """Decide whether a hardened model may ship.

    Args:
        original: Path of the model before.
        hardened: Path of the model after.
        clean_dir: Clean labelled images; see `patcher.data.clean_set`.
        policy: Policy file, or the policy itself; ``None`` for the defaults.
        patch: The patch file that made the hardened model.
        triggers: Triggers that a scan estimated (``.npz``).
        triggered: Triggered images with their true labels (``.npz``).
        target: The attacker's class for `triggered`.
        attested: An in-toto statement of an earlier run, which must be about these files and this policy.
        signing: Signature of the hardened model, and the key that must have made it.
        original_signing: The same of the original.
        preprocess: Keyword arguments of `patcher.data.preprocess.resolve_preprocess`.
        progress: Told of each check.
        today: The day on which suppressions are judged.
        options: Fields of `patcher.settings.Settings`.

    Returns:
        The checks and the report; ``result.passed`` says whether the policy is met.

    Raises:
        InputError: A file, folder or option cannot be used.
        UnsupportedGraphError: The original cannot be read faithfully.
    """
    started, settings = time.perf_counter(), settings_alone("verify", options)
    rules = policy if isinstance(policy, Policy) else read_policy(policy, tuple(CHECKS))
    found_patch = read_patch(patch) if patch is not None else None
    after = read_hardened(Path(hardened), settings)
    model = read_model(Path(original), scores=settings.scores)
    resolved = resolve_preprocess(model, **(preprocess or {}))
    attack = read_triggered(triggered, model, resolved, target) if triggered is not None else None
    prepared = prepare(model, clean_dir, resolved, settings, least_classes=1)
    given = Given(found_patch, read_triggers(triggers) if triggers is not None else (), attack)
    _check_fit(given.triggers, attack, prepared, model)
    subject = examine(prepared, after, given, rules, settings)
    found, pictures = run_checks(subject, progress or no_progress)
    found += [_signature(subject, signing, original_signing), _attestation(subject, found, attested)]
    checks = apply_policy(found, rules, after.sha256, today or datetime.datetime.now(datetime.UTC).date())
    report = verify_report(subject, checks, time.perf_counter() - started)
    return GateResult(report, checks, tuple(pictures), prepared.clean_set.class_names, _per_class(subject))


def _per_class(subject: Subject) -> PerClass:
    clean_set, predicted, task = subject.prepared.clean_set, subject.predicted, subject.prepared.task
    before = task.per_class(clean_set.labels, subject.prepared.predicted, clean_set.class_names)
    return before, None if predicted is None else task.per_class(clean_set.labels, predicted, clean_set.class_names)


def _signature(subject: Subject, hardened: Signing | None, original: Signing | None) -> Check:
    """The check ``signature``."""
    hardened, original = hardened or Signing(), original or Signing()
    model, after = subject.prepared.model, subject.hardened
    wanted = [
        (name, keys, path, digest)
        for name, keys, path, digest in (
            ("the original", original, model.path or Path(), model.sha256),
            ("the hardened model", hardened, after.path, after.sha256),
        )
        if keys.signature is not None
    ]
    if not wanted:
        return Check("signature", "skipped", "no signature given (--signature, --original-signature)")
    faults = [f"{name}: {fault}" for name, keys, path, digest in wanted if (fault := keys.fault(path, digest))]
    message = "; ".join(faults) or f"right for {' and '.join(item[0] for item in wanted)}"
    return decided("signature", not faults, message)


def _attestation(subject: Subject, found: Sequence[Check], attested: Source | None) -> Check:
    """The check ``attestation``."""
    if attested is None:
        return Check("attestation", "skipped", "no statement given (--attested)")
    fault = attestation_fault(Path(attested), verify_report(subject, found, 0.0).as_json())
    return decided("attestation", not fault, fault or "about this file and what it was judged with, and passed")


def _check_fit(triggers: Sequence[Trigger], attack: Triggered | None, prepared: Prepared, model: Model) -> None:
    """Refuse triggers of another size or of classes that the model does not have."""
    shape = prepared.clean_set.pixels.shape[1:]
    for trigger in triggers:
        if trigger.shape != shape:
            raise InputError(f"--triggers: pictures of shape {shape} expected, found {trigger.shape}")
        if not 0 <= trigger.target < model.num_classes:
            raise InputError(f"--triggers: a class from 0 to {model.num_classes - 1} expected, found {trigger.target}")
    if attack is not None and attack.pixels.shape[1:] != shape:
        raise InputError(f"--triggered: pictures of shape {shape} expected, found {attack.pixels.shape[1:]}")
    if attack is not None and isinstance(attack.target, int) and not 0 <= attack.target < model.num_classes:
        raise InputError(f"--target: a class from 0 to {model.num_classes - 1} expected, found {attack.target}")
