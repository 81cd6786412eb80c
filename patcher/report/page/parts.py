# SPDX-License-Identifier: Apache-2.0
"""What several reports show: accuracy class by class, names from a file, and what was run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from patcher.report.page.blocks import Cell, Facts, Section, Table
from patcher.report.text import class_text, shortened, words

_MARKED_LOSS = 0.05  # of a class's accuracy, between before and after


def named(name: str) -> Cell:
    """A name from a model file, cut in the middle where it is long."""
    short = shortened(name)
    return Cell(short, code=True, full=name if short != name else "")


def class_table(rows: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]] | None = None) -> Table:
    """Accuracy class by class, of one model or of two.

    Args:
        rows: Of `patcher.measure.confusion.per_class`.
        after: The same of the hardened model.
    """
    names = {row["class"]: row["name"] for row in rows}
    if after is None:
        alone = [(*_first(row), _accuracy(row), _taken(row, names)) for row in rows]
        note = "Mistaken for: the most frequent wrong answer, and its share of the class's images."
        return Table(("class", "images", "accuracy", "mistaken for"), alone, note)
    both = [
        (*_first(row), _accuracy(row), _accuracy(new, row["accuracy"] - new["accuracy"]), _taken(new, names))
        for row, new in zip(rows, after, strict=True)
    ]
    note = f"Accuracy of the two models. Coloured: a class that lost more than {_MARKED_LOSS:.0%} of its accuracy."
    return Table(("class", "images", "before", "after", "then mistaken for"), both, note)


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


def _accuracy(row: Mapping[str, Any], loss: float = 0.0) -> Cell:
    return Cell(f"{100 * row['accuracy']:.1f} %", "bad" if loss > _MARKED_LOSS else "", bar=row["accuracy"])


def _taken(row: Mapping[str, Any], names: Mapping[int, str]) -> str:
    other, share = row["most_taken_for"], row["most_taken_for_share"]
    return "" if other is None else f"{class_text(other, names.get(other, str(other)))} ({100 * share:.0f} %)"
