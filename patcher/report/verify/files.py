# SPDX-License-Identifier: Apache-2.0
"""Write a gate's report folder: ``report.json``, ``.md``, ``.html``, ``junit.xml``, ``results.sarif``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from patcher.files import replace_file
from patcher.report.folder import make_folder
from patcher.report.verify import html, junit, sarif
from patcher.report.verify import markdown as checks_markdown

if TYPE_CHECKING:
    from patcher.commands.verify import GateResult


def write_gate_reports(result: GateResult, folder: Path, hardened: Path) -> None:
    """Write all formats; each file appears whole or not at all.

    Args:
        result: What `verify` found.
        folder: Where to write; made where it is missing.
        hardened: The hardened model, whose path relative to the working directory goes into SARIF.

    Raises:
        InputError: The file system refuses.
    """
    from patcher.gate.check import CHECKS

    make_folder(folder)
    document = result.report.as_json()
    replace_file(folder / "report.json", result.report.to_json().encode())
    replace_file(folder / "report.md", checks_markdown.render(document).encode())
    replace_file(folder / "report.html", html.render(document, result.pictures, result.class_names).encode())
    replace_file(folder / "junit.xml", junit.render(document).encode())
    replace_file(folder / "results.sarif", sarif.render(document, CHECKS, relative_uri(hardened)).encode())


def relative_uri(path: Path) -> str:
    """A path relative to the working directory where it lies in it, else its name alone."""
    whole, here = path.resolve(), Path.cwd().resolve()
    return whole.relative_to(here).as_posix() if whole.is_relative_to(here) else path.name
