# SPDX-License-Identifier: Apache-2.0
"""Write a report folder: ``report.json``, ``report.md``, ``report.html``, the pictures, and the patch."""

from __future__ import annotations

from pathlib import Path

from patcher.files import replace_file
from patcher.patch import write_patch
from patcher.report.audit.files import write_suspects
from patcher.report.folder import make_folder
from patcher.report.harden.figures import figures
from patcher.report.harden.html import harden_page
from patcher.report.harden.markdown import render
from patcher.report.report import Report
from patcher.report.roc import roc_picture
from patcher.steps.fit import Fitted
from patcher.steps.flags import Detection


def write_harden(report: Report, folder: Path, fitted: Fitted, detection: Detection | None = None) -> None:
    """Write all files of a `harden` report; each appears whole or not at all.

    Raises:
        InputError: The file system refuses.
    """
    make_folder(folder)
    pictures = figures(fitted) | roc_picture(detection)
    for name, content in pictures.items():
        replace_file(folder / name, content)
    sheet: dict[str, bytes] = {}
    if fitted.calibration.findings is not None and fitted.training_set is not None:
        sheet = write_suspects(folder, fitted.calibration.findings, fitted.training_set)
    write_patch(fitted.patch, folder / "patch.safetensors")
    replace_file(folder / "report.json", report.to_json().encode())
    replace_file(folder / "report.md", render(report, tuple(pictures)).encode())
    replace_file(folder / "report.html", harden_page(report.as_json(), pictures | sheet).encode())
