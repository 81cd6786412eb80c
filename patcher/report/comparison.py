# SPDX-License-Identifier: Apache-2.0
"""The reports of `compare`: ``comparison.md`` and ``comparison.html``, beside a folder for each method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patcher.files import replace_file
from patcher.report.harden.choice import auto_lines
from patcher.report.harden.rows import BEFORE_AFTER_HEADER, before_after
from patcher.report.page.blocks import Cell, Notes, Row, Section, Table
from patcher.report.page.page import Page, render, tone_of
from patcher.report.page.parts import COLOURED, accuracy_cells, run_section
from patcher.report.table import table
from patcher.report.text import class_text


@dataclass(frozen=True)
class Compared:
    """What a comparison found, as its reports show it.

    Attributes:
        documents: ``report.json`` of each method, in order.
        failures: Methods that could not be applied, with the reason.
        best: Name of the method to use; ``None`` where none passed.
        reason: Why that one.
    """

    documents: Mapping[str, Mapping[str, Any]]
    failures: Mapping[str, str]
    best: str | None
    reason: str

    def header(self) -> tuple[str, ...]:
        """Column titles of `rows`."""
        return (*BEFORE_AFTER_HEADER[:2], *(f"{name} (best)" if name == self.best else name for name in self.documents))

    def rows(self) -> list[tuple[str, ...]]:
        """One row a quantity, one column a method; the verdicts first."""
        columns = [before_after(document) for document in self.documents.values()]
        before = {name: value for column in columns for name, value, _ in column}
        after = [{name: value for name, _, value in column} for column in columns]
        verdicts = ("verdict", "", *(document["verdict"] for document in self.documents.values()))
        figures = [(name, value, *(column.get(name, "") for column in after)) for name, value in before.items()]
        return [verdicts, *figures]


def write_comparison(found: Compared, folder: Path) -> None:
    """Write both files; each appears whole or not at all.

    Raises:
        InputError: The file system refuses.
    """
    replace_file(folder / "comparison.md", _markdown(found).encode())
    replace_file(folder / "comparison.html", _page(found).encode())


def _markdown(found: Compared) -> str:
    lines = ["# patcher compare", "", *table(found.header(), found.rows()), "", found.reason]
    lines += [f"\n{name}: {why}" for name, why in found.failures.items()]
    for document in found.documents.values():
        lines += auto_lines(document)
    return "\n".join(lines) + "\n"


def _page(found: Compared) -> str:
    documents, left_out = found.documents, [f"{name}: {why}" for name, why in found.failures.items()]
    first = next(iter(documents.values()))
    images, applied = first["clean_set"]["images"], f"{len(documents)} of {len(documents) + len(left_out)}"
    choices = [Notes([document["auto"]["paragraph"]]) for document in documents.values() if "auto" in document]
    hashes = [("model sha256", first["model"]["sha256"]), ("clean images sha256", first["clean_set"]["sha256"])]
    options = {name: document["method"]["options"] for name, document in documents.items()}
    sections = [
        Section("Side by side", [_side_by_side(found), *choices]),
        *([Section("Not applicable", [Notes(left_out)])] if left_out else []),
        Section("Class by class", [_classes(documents)]),
        run_section(first, hashes, options),
    ]
    summary = f"{applied} methods applied, {images} clean images."
    verdict = "fail" if found.best is None else "pass"
    return render(Page("compare", first["model"]["name"], verdict, summary, [found.reason], sections))


def _side_by_side(found: Compared) -> Table:
    """The verdicts, with links to the methods' own reports, above the figures."""
    verdicts, *figures = found.rows()
    linked = [
        Cell(document["verdict"], tone_of(document["verdict"]), link=f"{name}/report.html")
        for name, document in found.documents.items()
    ]
    note = "Each verdict leads to the method's own report. Shares carry their 95 % Wilson interval."
    return Table(found.header(), [(*verdicts[:2], *linked), *figures], note, cards=True)


def _classes(documents: Mapping[str, Mapping[str, Any]]) -> Table:
    first = next(iter(documents.values()))["per_class"]["before"]
    columns = [[row["accuracy"] for row in document["per_class"]["after"]] for document in documents.values()]
    rows: list[Row] = [
        (
            class_text(row["class"], row["name"]),
            str(row["images"]),
            *accuracy_cells(row["accuracy"], *after),
        )
        for row, *after in zip(first, *columns, strict=True)
    ]
    return Table(("class", "images", "before", *documents), rows, COLOURED)
