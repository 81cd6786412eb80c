# SPDX-License-Identifier: Apache-2.0
"""``scan --no-data``: the maximum-margin statistic alone, for a model that comes without images.

    score_t = (margin_t - median) / (1.4826 MAD)

Much weaker than a scan with images: it sees no trigger, cannot name sources, and neither finds every
backdoor nor clears a model. Its verdict is ``suspicious`` or ``inconclusive``, never more.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patcher.calibrate.classifier import Classifier, choose_device
from patcher.calibrate.scan.outliers import MINIMUM_CLASSES, robust_deviation
from patcher.calibrate.scan.ranking import maximum_margins, noise
from patcher.data.preprocess import Preprocess, resolve_preprocess
from patcher.errors import InputError
from patcher.files import Source, replace_file
from patcher.model.inputs import refuse_arrays
from patcher.model.model import read_model
from patcher.progress import Progress, no_progress
from patcher.report.folder import check_report_dir, make_folder
from patcher.report.report import Report
from patcher.report.scan.html import without_data_page
from patcher.report.sections import model_section
from patcher.report.table import table
from patcher.settings import Settings

# Chosen, not measured.
_STARTS = 4
_STEPS = 30
_OPEN_SIDE = 32
_SUSPICIOUS = 3.5  # the cut-off of Iglewicz and Hoaglin (1993) for such scores; not measured on backdoors
_SMALLEST_MARGIN_SPREAD = 1e-6
MARGIN_HEADER = ("class", "maximum margin", "score")


def scan_without_data(
    model: Source,
    *,
    report_dir: Source | None = None,
    preprocess: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    seed: int = 0,
    batch_size: int = 128,
    device: str = "auto",
    scores: str | None = None,
) -> Report:
    """Rank the classes of a model by their maximum margin, from pictures of noise.

    Args:
        model: Path of the model.
        report_dir: Folder for ``scan.json`` and ``scan.md``.
        preprocess: Keyword arguments of `resolve_preprocess`.
        progress: Told of each piece of work.
        seed: Of the noise.
        batch_size: Images in memory at a time.
        device: ``auto``, ``cpu`` or ``cuda``.
        scores: The output that holds the class scores; ``None`` for the one that data flow points to.

    Returns:
        The report; its verdict is ``suspicious`` or ``inconclusive``.

    Raises:
        InputError: The model or an option cannot be used.
    """
    started = time.perf_counter()
    settings = Settings(seed=seed, batch_size=batch_size, device=device, scores=scores)
    check_report_dir(report_dir)
    read = read_model(model, scores=settings.scores)
    refuse_arrays(read.kind, "scan --no-data")
    resolved = resolve_preprocess(read, **(preprocess or {}))
    told = resolved.size if isinstance(resolved, Preprocess) else None
    classifier = Classifier(read, resolved, device=choose_device(settings.device))
    size = read.image_size or told or read.sized(_OPEN_SIDE)
    starts = noise(classifier, _STARTS, size, seed=seed)
    margins = maximum_margins(classifier, starts, steps=_STEPS, batch_size=batch_size, progress=progress or no_progress)
    if not np.isfinite(margins).all():
        raise InputError("scan --no-data: finite class scores expected, found others; scan with --clean-dir")
    deviations = margin_scores(margins)
    first = int(deviations.argmax())
    stands_out = read.num_classes >= MINIMUM_CLASSES and deviations[first] >= _SUSPICIOUS
    reason = "without data a model cannot be cleared: scan with --clean-dir"
    if stands_out:
        reason = f"without data: class {first} has a maximum margin {deviations[first]:.1f} deviations above the median"
    sections = {
        "model": model_section(read),
        "preprocess": resolved.as_json(),
        "options": {"seed": seed, "no_data": True},
        "maximum_margins": [float(value) for value in margins],
        "scores": [float(value) for value in deviations],
    }
    seconds = {"scan_s": time.perf_counter() - started}
    report = Report("scan", "suspicious" if stands_out else "inconclusive", (reason,), sections, seconds)
    if report_dir is not None:
        _write(report, Path(report_dir))
    return report


def margin_scores(margins: NDArray[np.float64]) -> NDArray[np.float64]:
    """Deviations of each margin ``(K,)`` above the median, by the median absolute deviation."""
    centred = margins - np.median(margins)
    spread = max(robust_deviation(margins), _SMALLEST_MARGIN_SPREAD)
    return np.asarray(centred / spread, np.float64)


def margin_rows(document: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Rows of text, largest margin first; the header is `MARGIN_HEADER`."""
    pairs = list(zip(document["maximum_margins"], document["scores"], strict=True))
    order = sorted(range(len(pairs)), key=lambda label: -pairs[label][0])
    return [(str(label), f"{pairs[label][0]:.2f}", f"{pairs[label][1]:.2f}") for label in order]


def _write(report: Report, folder: Path) -> None:
    make_folder(folder)
    document = report.as_json()
    lines = [f"# patcher scan, no data: {report.verdict.upper()}", "", f"- {report.reasons[0]}", ""]
    lines += table(MARGIN_HEADER, margin_rows(document))
    replace_file(folder / "scan.json", report.to_json().encode())
    replace_file(folder / "scan.md", ("\n".join(lines) + "\n").encode())
    replace_file(folder / "scan.html", without_data_page(document, MARGIN_HEADER, margin_rows(document)).encode())
