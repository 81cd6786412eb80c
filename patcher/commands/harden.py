# SPDX-License-Identifier: Apache-2.0
"""The Python API: each command as a function. No printing, no exits.

import patcher

result = patcher.harden("model.onnx", clean_dir="data/", method="unit")
result.verdict                                        # "pass" or "fail"
result.accuracy.before.value, result.accuracy.after.value   # shares, 0 to 1
result.save("model.hardened.onnx")
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patcher.calibrate import Calibration
from patcher.calibrate.stack import stacks_of
from patcher.commands.apply import save_hardened
from patcher.commands.auto import Request, fit
from patcher.data.preprocess import resolve_preprocess
from patcher.export import apply_guard
from patcher.export.bake import Bake, bake_patch
from patcher.files import Source, check_output
from patcher.measure.change import AttackChange, Change
from patcher.measure.scores import Share
from patcher.model.file import load_file
from patcher.model.model import Model, read_model
from patcher.patch import Patch
from patcher.progress import Progress
from patcher.report.folder import check_report_dir
from patcher.report.harden.document import harden_report
from patcher.report.harden.files import write_harden
from patcher.report.report import Report, Reported
from patcher.signing import Signing
from patcher.steps.before_after import Measured, measure
from patcher.steps.flags import Detection
from patcher.steps.prove import prove
from patcher.steps.training_data import remove_checkpoint, with_checkpoint
from patcher.tasks import Target
from patcher.triggers.triggered import read_triggered

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class HardenResult(Reported):
    """What `harden` made.

    Attributes:
        report: What was measured, verdict first.
        measured: The same as plain attributes.
        patch: The corrections.
        model: The hardened model, weights inline.
        calibration: The method's own findings.
        output: Where the model was written; ``None`` when none was asked for or a condition failed.
        guard: The second file of ``--branch two-files``, else ``None``.
        source: The original model.
        signature: Where the output's signature was written.
    """

    report: Report
    measured: Measured
    patch: Patch
    model: onnx.ModelProto
    calibration: Calibration
    output: Path | None = None
    guard: onnx.ModelProto | None = None
    source: Model | None = None
    signature: Path | None = None

    @property
    def accuracy(self) -> Change[Share]:
        """Accuracy before and after, on the held-out images."""
        return self.measured.accuracy

    @property
    def attack(self) -> AttackChange | None:
        """ASR and SIA before and after; ``None`` where no triggered images were given."""
        return self.measured.attack

    @property
    def detection(self) -> Detection | None:
        """TPR and FPR of the hardened model's flag; ``None`` where it has none."""
        return self.measured.after.detection

    @property
    def agreement(self) -> Share:
        """Clean images on which both models give the same class."""
        return self.measured.agreement

    def save(self, path: Source) -> None:
        """Write the hardened model to `path`, whole or not at all; its guard beside it as ``<stem>.guard.onnx``.

        A model that nothing was changed in is copied byte for byte.

        Raises:
            InputError: The folder is missing or the file system refuses.
        """
        save_hardened(self.source, self.patch, self.model, self.guard, path)


def harden(
    model: Source | bytes | onnx.ModelProto,
    *,
    clean_dir: Source | None = None,
    method: str = "unit",
    output: Source | None = None,
    report_dir: Source | None = None,
    triggered: Source | None = None,
    target: Target | None = None,
    preprocess: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    bake: Bake = "auto",
    signing: Signing | None = None,
    **options: Any,
) -> HardenResult:
    """Calibrate, apply, prove parity, measure, and write; ``result.report.verdict`` says what held.

    Args:
        model: Path, bytes or ``ModelProto`` of an ONNX image classifier.
        clean_dir: Clean images; see `patcher.data.clean_set`. May be left out where a training set is given.
        method: A method, several joined by ``+``, or ``auto``.
        output: Where to write the hardened model, if every condition is met.
        report_dir: Where to write reports, pictures and the patch.
        triggered: ``.npz`` of triggered images; only scored, before and after.
        target: The attacker's class for `triggered`.
        preprocess: Keyword arguments of `patcher.data.preprocess.resolve_preprocess`.
        progress: Told of each step.
        bake: ``nodes``, ``folded`` or ``auto``; see `patcher.export.bake`.
        signing: What to check the model's signature with, and to sign the output with; a path is needed for `model`.
        options: Fields of `patcher.settings.Settings` and of the method's ``Options``.

    Raises:
        InputError: A file, folder or option cannot be used.
        UnsupportedGraphError: The graph cannot be run or edited faithfully.
        NotApplicableError: The model has no site for the method.
        CalibrationError: Calibration could not produce a patch.
        ParityError: ONNX Runtime does not compute what was calibrated.
    """
    started = time.perf_counter()
    check_output(output, model)
    check_report_dir(report_dir)
    read, keys = read_model(model, scores=options.get("scores")), signing or Signing()
    keys.require(read.path or "", read.sha256)
    resolved = resolve_preprocess(read, **(preprocess or {}))
    attack = None if triggered is None else read_triggered(triggered, read, resolved, target)
    options = with_checkpoint(stacks_of(method), output, options)
    request = Request(model, read, clean_dir, preprocess, resolved)
    fitted = fit(request, method, None if report_dir is None else Path(report_dir), progress, options)
    calibrated = time.perf_counter()
    baked, guard = bake_patch(read, fitted.patch, bake), apply_guard(read, fitted.patch)
    parity = prove(fitted, hardened := baked.model, guard)
    measured = measure(fitted.prepared, hardened, attack, fitted.settings, guard=guard)
    seconds = {"calibrate_s": calibrated - started, "export_and_measure_s": time.perf_counter() - calibrated}
    report = harden_report(fitted, hardened, parity, measured, seconds, baked)
    if report_dir is not None:
        write_harden(report, Path(report_dir), fitted, measured.after.detection)
    result = HardenResult(report, measured, fitted.patch, hardened, fitted.calibration, guard=guard, source=read)
    remove_checkpoint(options)
    return result if output is None or report.verdict != "pass" else _written(result, Path(output), keys)


def _written(result: HardenResult, output: Path, keys: Signing) -> HardenResult:
    """Write the model, and its signature where there is a key."""
    result.save(output)
    signature = keys.sign(output, load_file(output)[1]) if keys.sign_key is not None else None
    return replace(result, output=output, signature=signature)
