# SPDX-License-Identifier: Apache-2.0
"""The Python API: each command as a function. No printing, no exits.

import patcher

result = patcher.harden("model.onnx", clean_dir="data/", method="unit")
result.report.verdict      # "pass" or "fail"
result.save("model.hardened.onnx")
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patcher.calibrate import Calibration, Progress
from patcher.detection import measure_detection
from patcher.errors import InputError
from patcher.evaluation import Target, as_feed, read_triggered
from patcher.export import apply_guard, apply_patch, check_guard_parity, check_parity, neutral_patch
from patcher.export.bake import Bake, bake_patch, node_outputs
from patcher.files import check_output
from patcher.fitting import choose_method, fit_patch
from patcher.measure import measure, score
from patcher.model import Model, read_model, write_model
from patcher.model_file import write_unchanged
from patcher.patch import Patch, read_patch, write_patch
from patcher.preparation import prepare
from patcher.preprocess import resolve_preprocess
from patcher.proof import prove
from patcher.report.evaluation import evaluation_report
from patcher.report.folder import check_report_dir
from patcher.report.hardening import hardening_report
from patcher.report.report import Report
from patcher.report.write import write_reports
from patcher.runtime import GUARD_SUFFIX
from patcher.settings import Source, split_options
from patcher.synthetic import holds_triggers, triggered_by
from patcher.training_data import remove_checkpoint, with_checkpoint

if TYPE_CHECKING:
    import onnx

_RANDOM_IMAGES = 8
_OPEN_SIDE = 224  # where the graph leaves the size open


@dataclass(frozen=True)
class HardenResult:
    """What `harden` made.

    Attributes:
        report: What was measured, verdict first.
        patch: The corrections.
        model: The hardened model, weights inline.
        calibration: The method's own findings.
        output: Where the model was written; ``None`` when none was asked for or a condition failed.
        guard: The second file of ``--branch two-files``, else ``None``.
        source: The model as it came.
    """

    report: Report
    patch: Patch
    model: onnx.ModelProto
    calibration: Calibration
    output: Path | None = None
    guard: onnx.ModelProto | None = None
    source: Model | None = None

    def save(self, path: Source) -> None:
        """Write the hardened model to `path`, whole or not at all; its guard beside it as ``<stem>.guard.onnx``.

        A model that nothing was changed in is copied byte for byte.

        Raises:
            InputError: The folder is missing or the file system refuses.
        """
        _save(self.source, self.patch, self.model, self.guard, path)


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
    bake: Bake = "nodes",
    **options: Any,
) -> HardenResult:
    """Calibrate, apply, prove parity, measure, and write.

    Args:
        model: Path, bytes or ``ModelProto`` of an ONNX image classifier.
        clean_dir: Clean images; see `patcher.clean_set`. May be left out where a training set is given.
        method: Name of a method.
        output: Where to write the hardened model; nothing is written there when a condition fails.
        report_dir: Where to write reports, pictures and the patch.
        triggered: ``.npz`` of triggered images; only scored, before and after.
        target: The attacker's class for `triggered`.
        preprocess: Keyword arguments of `patcher.preprocess.resolve_preprocess`.
        progress: Told of each step.
        bake: ``nodes``, ``folded`` or ``auto``; see `patcher.export.bake`.
        options: Fields of `patcher.settings.Settings` and of the method's ``Options``.

    Returns:
        The result; ``result.report.verdict`` says whether every condition was met.

    Raises:
        InputError: A file, folder or option cannot be used.
        UnsupportedGraphError: The graph cannot be run or edited faithfully.
        NotApplicableError: The model has no site for the method.
        CalibrationError: Calibration could not produce a patch.
        ParityError: ONNX Runtime does not compute what was calibrated; nothing was written.
    """
    started = time.perf_counter()
    check_output(output, model)
    check_report_dir(report_dir)
    read = read_model(model)
    resolved = resolve_preprocess(read, **(preprocess or {}))
    attack = read_triggered(triggered, resolved, target) if triggered is not None else None
    options = with_checkpoint(choose_method(method), output, options)
    fitted = fit_patch(read, clean_dir, method, resolved, progress, options)
    calibrated = time.perf_counter()
    baked, guard = bake_patch(read, fitted.patch, bake), apply_guard(read, fitted.patch)
    hardened = baked.model
    parity = prove(fitted, hardened, guard)
    measured = measure(fitted.prepared, hardened, attack, fitted.settings, guard=guard)
    seconds = {"calibrate_s": calibrated - started, "export_and_measure_s": time.perf_counter() - calibrated}
    report = hardening_report(fitted, hardened, parity, measured, seconds, baked)
    passed = report.verdict == "pass"
    if report_dir is not None:
        write_reports(report, Path(report_dir), fitted)
    result = HardenResult(report, fitted.patch, hardened, fitted.calibration, guard=guard, source=read)
    if output is not None and passed:
        result.save(output)
        result = replace(result, output=Path(output))
    remove_checkpoint(options)
    return result


def calibrate(
    model: Source | bytes | onnx.ModelProto,
    *,
    clean_dir: Source | None = None,
    method: str = "unit",
    output: Source | None = None,
    preprocess: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> tuple[Patch, Calibration]:
    """Fit a patch without applying it; arguments and errors as `harden`.

    Args:
        model: Path, bytes or ``ModelProto``.
        clean_dir: Clean images; may be left out where a training set is given.
        method: Name of a method.
        output: Where to write the patch, ``.safetensors``.
        preprocess: Keyword arguments of `resolve_preprocess`.
        progress: Told of each step.
        options: Fields of `Settings` and of the method's ``Options``.

    Returns:
        The patch and the method's findings; ``calibration.satisfied`` says whether accuracy held.
    """
    check_output(output, model)
    read = read_model(model)
    resolved = resolve_preprocess(read, **(preprocess or {}))
    options = with_checkpoint(choose_method(method), output, options)
    fitted = fit_patch(read, clean_dir, method, resolved, progress, options)
    if output is not None and fitted.calibration.satisfied:
        write_patch(fitted.patch, output)
    remove_checkpoint(options)
    return fitted.patch, fitted.calibration


def apply(
    model: Source | bytes | onnx.ModelProto,
    patch: Source | Patch,
    *,
    output: Source | None = None,
    bake: Bake = "nodes",
) -> onnx.ModelProto:
    """Bake a patch into a model.

    The surgery is proven on random pixels with neutral corrections; what the patch does to accuracy was
    measured when it was calibrated and can be measured again with `evaluate`.

    Args:
        model: The model that the patch was calibrated on.
        patch: The patch or its file.
        output: Where to write the hardened model.
        bake: ``nodes``, ``folded`` or ``auto``; see `patcher.export.bake`.

    Returns:
        The hardened model.

    Raises:
        InputError: The patch is for another model, or a file cannot be used.
        ParityError: The surgery changed more than the patch says; nothing was written.
    """
    check_output(output, model)
    read = read_model(model)
    found = patch if isinstance(patch, Patch) else read_patch(patch)
    baked, feed = bake_patch(read, found, bake), _random_feed(read)
    hardened = baked.model
    neutral, guard = neutral_patch(read, found), apply_guard(read, found)
    if guard is None:
        expected = node_outputs(baked, read, [feed])
        check_parity(read, hardened, apply_patch(read, neutral), [feed], expected=expected)
    else:
        check_guard_parity(read, hardened, guard, apply_guard(read, neutral) or guard, feed, {})
    if output is not None:
        _save(read, found, hardened, guard, output)
    return hardened


def evaluate(
    model: Source | bytes | onnx.ModelProto,
    *,
    data: Source,
    triggered: Source | None = None,
    target: Target | None = None,
    preprocess: Mapping[str, Any] | None = None,
    **options: Any,
) -> Report:
    """Measure ACC, ASR and SIA where triggered images are given, TPR and FPR where the model flags.

    Args:
        model: Path, bytes or ``ModelProto``.
        data: Labelled images, as a clean set.
        triggered: ``.npz`` of triggered images, or a scan's ``triggers.npz`` to put into the clean images.
        target: The attacker's class.
        preprocess: Keyword arguments of `resolve_preprocess`.
        options: Fields of `Settings`.

    Raises:
        InputError: A file, folder or option cannot be used.
    """
    settings, unknown = split_options(options)
    if unknown:
        raise InputError(f"evaluate: unknown options {', '.join(sorted(unknown))}")
    read = read_model(model)
    prepared = prepare(read, data, resolve_preprocess(read, **(preprocess or {})), settings)
    attack = None
    if triggered is not None and holds_triggers(triggered):
        attack = triggered_by(triggered, prepared.clean_set, target)
    elif triggered is not None:
        attack = read_triggered(triggered, prepared.preprocess, target)
    scored = score(prepared.session, prepared, attack, settings) if attack else None
    detection = measure_detection(prepared.session, prepared, attack, settings)
    return evaluation_report(prepared, str(data), scored, detection)


def _save(
    source: Model | None, patch: Patch, hardened: onnx.ModelProto, guard: onnx.ModelProto | None, path: Source
) -> None:
    """Write what a patch made: the model, its guard beside it, or the original as it came."""
    if guard is not None:
        write_model(guard, Path(path).with_name(Path(path).stem + GUARD_SUFFIX))
    if patch.corrections or source is None:
        write_model(hardened, path)
    else:
        write_unchanged(source.proto, source.sha256, source.path, path)


def _random_feed(model: Model) -> NDArray[Any]:
    """Random pixels as the model takes them."""
    height, width = model.image_size or (_OPEN_SIDE, _OPEN_SIDE)
    pixels = np.random.default_rng(0).random((_RANDOM_IMAGES, model.channels, height, width), np.float32)
    return as_feed(model, resolve_preprocess(model), pixels)
