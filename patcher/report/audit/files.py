# SPDX-License-Identifier: Apache-2.0
"""Suspected training images as files: ``suspects.csv`` for tools, ``suspects.png`` for eyes.

The sheet has one row of pictures a label, the highest scores first. Both are the same bytes for the same
findings.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from patcher.data.clean_set import CleanSet
from patcher.files import replace_file
from patcher.report.audit.html import audit_page
from patcher.report.folder import make_folder
from patcher.report.report import Report

if TYPE_CHECKING:
    from PIL.Image import Image

    from patcher.calibrate.findings import Findings, Suspect

CSV_NAME, SHEET_NAME = "suspects.csv", "suspects.png"
_COLUMNS, _SIDE, _GAP, _TITLE = 12, 72, 4, 14
_LABELS_SHOWN = 20
_BACKGROUND, _INK = (255, 255, 255), (40, 40, 40)


def write_audit(report: Report, folder: Path, findings: Findings, training_set: CleanSet) -> None:
    """Write ``audit.json``, ``audit.html`` and the suspects; each file appears whole or not at all.

    Raises:
        InputError: The file system refuses.
    """
    make_folder(folder)
    sheet = write_suspects(folder, findings, training_set)
    replace_file(folder / "audit.json", report.to_json().encode())
    replace_file(folder / "audit.html", audit_page(report.as_json(), sheet).encode())


def write_suspects(folder: Path, findings: Findings, training_set: CleanSet) -> dict[str, bytes]:
    """Write both files; the sheet only where there is a suspect.

    Returns:
        The sheet, file name to PNG bytes; empty where there is none.

    Raises:
        InputError: The file system refuses.
    """
    replace_file(folder / CSV_NAME, suspects_csv(findings, training_set).encode())
    if not findings.suspects:
        return {}
    buffer = io.BytesIO()
    contact_sheet(findings, training_set).save(buffer, "PNG")
    replace_file(folder / SHEET_NAME, buffer.getvalue())
    return {SHEET_NAME: buffer.getvalue()}


def suspects_csv(findings: Findings, training_set: CleanSet) -> str:
    """One line a suspect, highest score first; the image is a path below the folder, or its index."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "class", "score", "likely_class", "neurons"])
    names = training_set.class_names
    for found in _by_score(findings):
        image = training_set.files[found.index] if training_set.files else str(found.index)
        row = [image, names[found.label], f"{found.score:.2f}", names[found.likely_label], " ".join(found.neurons)]
        writer.writerow(row)
    return text.getvalue()


def contact_sheet(findings: Findings, training_set: CleanSet) -> Image:
    """The top suspects of each label, as a picture."""
    from PIL import Image, ImageDraw

    labels = sorted({found.label for found in findings.suspects})[:_LABELS_SHOWN]
    height = _TITLE + _SIDE + 2 * _GAP
    sheet = Image.new("RGB", (_GAP + _COLUMNS * (_SIDE + _GAP), max(1, len(labels)) * height), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for row, label in enumerate(labels):
        members = [found for found in _by_score(findings) if found.label == label]
        top = row * height + _GAP
        name = training_set.class_names[label].encode("ascii", "replace").decode()
        draw.text((_GAP, top), f"label {name}: {len(members)} suspects, highest score first", fill=_INK)
        for column, found in enumerate(members[:_COLUMNS]):
            place = (_GAP + column * (_SIDE + _GAP), top + _TITLE)
            sheet.paste(_picture(training_set, found.index), place)
    return sheet


def _picture(training_set: CleanSet, index: int) -> Image:
    from PIL import Image

    pixels = training_set.images(np.array([index]))[0]
    values = np.round(255 * pixels.transpose(1, 2, 0)).astype(np.uint8)
    picture = Image.fromarray(values[..., 0] if values.shape[2] == 1 else values[..., :3])
    return picture.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.NEAREST)


def _by_score(findings: Findings) -> list[Suspect]:
    return sorted(findings.suspects, key=lambda found: (-found.score, found.index))
