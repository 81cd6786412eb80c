# SPDX-License-Identifier: Apache-2.0
"""What several reports show: accuracy class by class, names from a file, and what was run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from patcher.report.page.blocks import Cell, Facts, Row, Section, Table
from patcher.report.text import class_text, percent, shortened, words

_MOST_OPEN = 50  # classes in a table that is not folded away
_MARKED_LOSS = 0.05  # of a class's images, between before and after
COLOURED = f"Coloured: a class that lost more than {_MARKED_LOSS:.0%} of its images."


def named(name: str) -> Cell:
    """A name from a model file, cut in the middle where it is long."""
    short = shortened(name)
    return Cell(short, code=True, full=name if short != name else "")


def class_section(rows: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]] | None = None) -> Section:
    """`class_table` as a section, closed where there are many classes."""
    return Section("Class by class", [class_table(rows, after)], folded=len(rows) > _MOST_OPEN)


def class_table(rows: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]] | None = None) -> Table:
    """Accuracy class by class, of one model or of two.

    Args:
        rows: Of `patcher.tasks.task.Task.per_class`.
        after: The same of the hardened model.
    """
    names = {row["class"]: row["name"] for row in rows}
    if after is None:
        alone: list[Row] = [(*_first(row), *accuracy_cells(row["accuracy"]), _taken(row, names)) for row in rows]
        note = "Mistaken for: the most frequent wrong answer, and its share of the class's images."
        return Table(("class", "images", "accuracy", "mistaken for"), alone, note)
    both: list[Row] = [
        (*_first(row), *accuracy_cells(row["accuracy"], new["accuracy"]), _taken(new, names))
        for row, new in zip(rows, after, strict=True)
    ]
    note = f"Accuracy of the two models. {COLOURED}"
    return Table(("class", "images", "before", "after", "then mistaken for"), both, note)


def accuracy_cells(before: float, *after: float) -> Iterator[Cell]:
    """Accuracies as bars, the later ones coloured where much of the first was lost."""
    for accuracy in (before, *after):
        yield Cell(percent(accuracy), "bad" if before - accuracy > _MARKED_LOSS else "", bar=accuracy)


def run_section(
    document: Mapping[str, Any],
    hashes: Sequence[tuple[str, str]],
    options: Mapping[str, Any] | None = None,
) -> Section:
    """What was run: files by their hash, preprocessing, options, versions.

    Args:
        document: A report as plain JSON values.
        hashes: Name and sha256 of what was read and written.
        options: Of the command.
    """
    versions = {"patcher": document["patcher_version"], **document["versions"]}
    pairs: list[tuple[str, str | Cell]] = [(name, Cell(value, code=True)) for name, value in hashes]
    pairs.append(("preprocessing", words(document["preprocess"])))
    if options:
        pairs.append(("options", words(options)))
    pairs.append(("versions", ", ".join(f"{name} {number}" for name, number in versions.items())))
    return Section("What was run", [Facts(pairs)], folded=True)


def _first(row: Mapping[str, Any]) -> tuple[str, str]:
    return class_text(row["class"], row["name"]), str(row["images"])


def _taken(row: Mapping[str, Any], names: Mapping[int, str]) -> str:
    other, share = row["most_taken_for"], row["most_taken_for_share"]
    return "" if other is None else f"{class_text(other, names.get(other, str(other)))} ({100 * share:.0f} %)"
