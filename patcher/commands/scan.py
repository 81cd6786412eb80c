# SPDX-License-Identifier: Apache-2.0
"""``scan`` as a function: is there a backdoor, to which class, and what does its trigger look like?

import patcher

result = patcher.scan("model.onnx", clean_dir="data/")
result.level       # "clean", "backdoor", "suspicious" or "inconclusive"
result.triggers    # for BNA, NFT and the gate
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patcher.calibrate.classifier import Classifier, choose_device
from patcher.calibrate.run import Run
from patcher.calibrate.scan.figures import Findings
from patcher.calibrate.scan.model_verdict import Decision, decide
from patcher.calibrate.scan.options import DEFAULT_MEMORY_MIB, Options
from patcher.calibrate.scan.stages import Stages
from patcher.calibrate.scan.target_verdict import Level, Thresholds
from patcher.data.arrays import Arrays
from patcher.data.preprocess import resolve_preprocess
from patcher.errors import InputError
from patcher.files import Source
from patcher.model.model import Model, read_model
from patcher.progress import Progress, no_progress
from patcher.report.folder import check_report_dir
from patcher.report.report import Report, Reported
from patcher.report.scan.document import scan_report
from patcher.report.scan.files import write_scan
from patcher.settings import Settings, refuse_unknown, split_options
from patcher.steps.prepare import Prepared, prepare
from patcher.triggers.trigger import Trigger

if TYPE_CHECKING:
    import onnx

# A value, its gradient, and what a convolution keeps beside them.
_COPIES = 3
_BYTES = 4


@dataclass(frozen=True)
class ScanResult(Reported):
    """The outcome of a scan.

    Attributes:
        report: Figures and verdicts, as written to ``scan.json``.
        decision: Verdicts.
        findings: Figures.
    """

    report: Report
    decision: Decision
    findings: Findings

    @property
    def level(self) -> Level:
        """The verdict on the model."""
        return self.decision.level

    @property
    def triggers(self) -> tuple[Trigger, ...]:
        """Triggers of the flagged targets."""
        return self.decision.triggers


def scan(
    model: Source | bytes | onnx.ModelProto,
    *,
    clean_dir: Source,
    report_dir: Source | None = None,
    memory_mib: int = DEFAULT_MEMORY_MIB,
    preprocess: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> ScanResult:
    """Search a model for a backdoor.

    Args:
        model: Path, bytes or ``ModelProto``.
        clean_dir: Clean labelled images.
        report_dir: Folder for ``scan.json``, ``scan.md``, the pictures and ``triggers.npz``.
        memory_mib: Memory for activations and gradients; lowers the batch size where needed.
        preprocess: Keyword arguments of `resolve_preprocess`.
        progress: Told of each step.
        options: Fields of `Settings`, of `Options` and of `Thresholds`.

    Raises:
        InputError: A file, folder or option cannot be used, or the model is not accurate on the images.
        UnsupportedGraphError: The model holds something that cannot be run faithfully.
    """
    started = time.perf_counter()
    check_report_dir(report_dir)
    opened = open_scan(
        model, clean_dir=clean_dir, memory_mib=memory_mib, preprocess=preprocess, progress=progress, **options
    )
    findings = opened.stages.search()
    return opened.judge(findings, time.perf_counter() - started, report_dir)


@dataclass(frozen=True)
class OpenScan:
    """A scan whose model and images are read, and of which nothing is searched yet.

    Attributes:
        prepared: The model and the images.
        settings: Shared settings.
        options: What is searched.
        thresholds: What makes a backdoor.
        stages: The searches.
    """

    prepared: Prepared
    settings: Settings
    options: Options
    thresholds: Thresholds
    stages: Stages

    def judge(self, findings: Findings, seconds: float, report_dir: Source | None) -> ScanResult:
        """Verdict and report of what was found; a report folder is written where one is given."""
        decision = decide(findings, self.thresholds, self.prepared.clean_set.class_names)
        ran = {"seed": self.settings.seed, **asdict(self.options), "thresholds": asdict(self.thresholds)}
        report = scan_report(self.prepared, findings, decision, ran, {"scan_s": seconds})
        if report_dir is not None:
            write_scan(report, Path(report_dir), self.prepared, findings, decision)
        return ScanResult(report, decision, findings)


def open_scan(
    model: Source | bytes | onnx.ModelProto,
    *,
    clean_dir: Source,
    memory_mib: int = DEFAULT_MEMORY_MIB,
    preprocess: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> OpenScan:
    """Read everything a scan needs and measure the model; arguments and errors as `scan`."""
    settings, scan_options, thresholds = read_scan_options(options)
    read = read_model(model, scores=settings.scores)
    resolved = resolve_preprocess(read, **(preprocess or {}))
    prepared = prepare(read, clean_dir, resolved, settings)
    classifier = Classifier(read, resolved, device=choose_device(settings.device), task=prepared.task)
    _check_range(prepared)
    size = fitting_batch(read, memory_mib, settings.batch_size)
    run = Run(classifier, settings.seed, size, progress or no_progress)
    stages = Stages(run, prepared.clean_set, prepared.predicted, scan_options, thresholds)
    return OpenScan(prepared, settings, scan_options, thresholds, stages)


def _check_range(prepared: Prepared) -> None:
    """Refuse to search arrays in a range that is not theirs.

    Raises:
        InputError: The range was not told, and values lie outside of 0 to 1.
    """
    encoding, rows = prepared.preprocess, prepared.clean_set.pixels
    if prepared.model.kind != "array" or not isinstance(encoding, Arrays) or encoding.ranged:
        return
    low, high = float(rows.min()), float(rows.max())
    if low < 0 or high > 1:
        raise InputError(
            f"--range: triggers are searched in the range of the arrays, which was not told; found {low:.4g} to "
            f"{high:.4g}, for instance --range={math.floor(low)}:{math.ceil(high)}"
        )


def fitting_batch(model: Model, memory_mib: int, batch_size: int) -> int:
    """The largest batch, `batch_size` at most, whose activations and gradients fit the memory.

    Raises:
        InputError: Not even one image fits.
    """
    shapes = [shape[1:] for shape in model.shapes.values() if len(shape) > 1 and None not in shape[1:]]
    per_image = _COPIES * _BYTES * sum(math.prod(int(length or 0) for length in shape) for shape in shapes)
    fits = batch_size if not per_image else memory_mib * 2**20 // per_image
    if fits < 1:
        needed = math.ceil(per_image / 2**20)
        raise InputError(f"--memory: at least {needed} MiB needed for one image, found {memory_mib}")
    return min(batch_size, fits)


def read_scan_options(options: Mapping[str, Any]) -> tuple[Settings, Options, Thresholds]:
    """Split keyword arguments of `scan`.

    Raises:
        InputError: An option is unknown or out of its range.
    """
    settings, rest = split_options(options)
    taken = [{part.name for part in fields(kind)} for kind in (Options, Thresholds)]
    refuse_unknown("scan", rest, taken[0] | taken[1])
    own, limits = ({name: value for name, value in rest.items() if name in names} for names in taken)
    return settings, Options(**own), Thresholds(**limits)
