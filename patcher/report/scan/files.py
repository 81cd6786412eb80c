# SPDX-License-Identifier: Apache-2.0
"""Write a scan's folder: ``scan.json``, ``scan.md``, ``scan.html``, the pictures, and triggers where there are any."""

from __future__ import annotations

from pathlib import Path

from patcher.calibrate.scan.figures import Findings
from patcher.calibrate.scan.model_verdict import Decision
from patcher.files import replace_file
from patcher.report.folder import make_folder
from patcher.report.report import Report
from patcher.report.scan.document import render_scan
from patcher.report.scan.figures import scan_figures
from patcher.report.scan.html import scan_page
from patcher.steps.prepare import Prepared
from patcher.triggers.file import TRIGGERS, write_triggers


def write_scan(report: Report, folder: Path, prepared: Prepared, findings: Findings, decision: Decision) -> None:
    """Write all files of a scan; each appears whole or not at all.

    A ``triggers.npz`` of an earlier scan is removed where this one found none, so that it is not taken for
    this one's.

    Raises:
        InputError: The file system refuses.
    """
    make_folder(folder)
    pictures = scan_figures(prepared, findings, decision)
    for name, content in pictures.items():
        replace_file(folder / name, content)
    if decision.triggers:
        write_triggers(decision.triggers, folder / TRIGGERS)
    else:
        (folder / TRIGGERS).unlink(missing_ok=True)
    replace_file(folder / "scan.json", report.to_json().encode())
    replace_file(folder / "scan.md", render_scan(report, tuple(pictures)).encode())
    replace_file(folder / "scan.html", scan_page(report.as_json(), pictures).encode())
