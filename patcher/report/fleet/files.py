# SPDX-License-Identifier: Apache-2.0
"""Write the index of a fleet: ``fleet.json``, ``fleet.html``, ``junit.xml``."""

from __future__ import annotations

from pathlib import Path

from patcher.files import replace_file
from patcher.report.fleet import html, junit
from patcher.report.report import Report


def write_fleet(report: Report, folder: Path) -> None:
    """Write all formats beside the folders of the models; each file appears whole or not at all.

    Raises:
        InputError: The file system refuses.
    """
    document = report.as_json()
    replace_file(folder / "fleet.json", report.to_json().encode())
    replace_file(folder / "fleet.html", html.fleet_page(document, folder).encode())
    replace_file(folder / "junit.xml", junit.render(document).encode())
