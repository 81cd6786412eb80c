# SPDX-License-Identifier: Apache-2.0
"""Write a gate's report folder: ``report.json``, ``.md``, ``.html``, ``junit.xml``, ``results.sarif``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from patcher.files import replace_file
from patcher.gate.check import CHECKS
from patcher.gate.triggers import Picture
from patcher.report.folder import make_folder
from patcher.report.report import Report
from patcher.report.verify import html, junit, sarif
from patcher.report.verify import markdown as checks_markdown


def write_verify(
    report: Report,
    pictures: Sequence[Picture],
    class_names: Sequence[str],
    per_class: html.PerClass,
    folder: Path,
    hardened: Path,
) -> None:
    """Write all formats; each file appears whole or not at all.

    Args:
        report: What `verify` found.
        pictures: The worst probe and the given triggers.
        class_names: In class order.
        per_class: Accuracy class by class, before and after.
        folder: Where to write; made where it is missing.
        hardened: The hardened model, whose path relative to the working directory goes into SARIF.

    Raises:
        InputError: The file system refuses.
    """
    make_folder(folder)
    document = report.as_json()
    replace_file(folder / "report.json", report.to_json().encode())
    replace_file(folder / "report.md", checks_markdown.render(document).encode())
    replace_file(folder / "report.html", html.verify_page(document, pictures, class_names, per_class).encode())
    replace_file(folder / "junit.xml", junit.render(document).encode())
    replace_file(folder / "results.sarif", sarif.render(document, CHECKS, relative_uri(hardened)).encode())


def relative_uri(path: Path) -> str:
    """A path relative to the working directory where it lies in it, else its name alone."""
    whole, here = path.resolve(), Path.cwd().resolve()
    return whole.relative_to(here).as_posix() if whole.is_relative_to(here) else path.name
