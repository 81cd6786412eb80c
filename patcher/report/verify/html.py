# SPDX-License-Identifier: Apache-2.0
"""``report.html`` of the gate: every check, the pictures with triggers, the worst probes, class by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from patcher.report.page.blocks import Cell, Picture, Pictures, Section, Table, Tone
from patcher.report.page.page import Page, render
from patcher.report.page.parts import class_section, run_section
from patcher.report.page.pictures import pixel_uri
from patcher.report.text import class_text, share_text
from patcher.report.verify.rows import HEADER, STATUS_WORDS, check_rows

if TYPE_CHECKING:
    from patcher.gate import triggers

_TONES: Mapping[str, Tone] = {
    "pass": "good",
    "fail": "bad",
    "not_run": "bad",
    "suppressed": "mild",
    "skipped": "quiet",
}
_BARS = "Bars: the value, with its limit as a mark. Skipped: there was nothing to check."
PerClass = tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]] | None]


def verify_page(
    document: Mapping[str, Any],
    pictures: Sequence[triggers.Picture],
    class_names: Sequence[str],
    per_class: PerClass,
) -> str:
    """The page's text.

    Args:
        document: A ``verify`` report as plain JSON values.
        pictures: Pictures with triggers in them.
        class_names: In class order.
        per_class: Accuracy class by class of the original and of the hardened model; ``None`` where that does not run.
    """
    counts = [(status, sum(check["status"] == status for check in document["checks"])) for status in STATUS_WORDS]
    checks = ", ".join(f"{count} {STATUS_WORDS[status].lower()}" for status, count in counts if count)
    summary = (
        f"Against its original {document['original']['name']}, {document['clean_set']['images']} clean images. "
        f"Checks: {checks}."
    )
    sections = [
        Section("Checks", [_checks(document)]),
        *_triggers(pictures, class_names),
        *_worst_probes(document, class_names),
        class_section(*per_class),
        run_section(document, _hashes(document)),
    ]
    name, verdict = document["hardened"]["name"], document["verdict"]
    return render(Page("verify", name, verdict, summary, document["reasons"], sections))


def _checks(document: Mapping[str, Any]) -> Table:
    rows = []
    for check, (name, status, value, limit, count, message) in zip(
        document["checks"], check_rows(document), strict=True
    ):
        tone = _TONES[check["status"]]
        rows.append((name, Cell(status, tone), _value(check, value, tone), limit, count, message))
    return Table(HEADER, rows, _BARS, cards=True)


def _value(check: Mapping[str, Any], text: str, tone: Tone) -> str | Cell:
    """A share as a bar, with the limit as a mark."""
    if check["interval_95"] is None or check["threshold"] is None:
        return text
    width, mark = (min(1.0, max(0.0, number)) for number in (check["value"], check["threshold"]))
    return Cell(text, tone, bar=width, mark=mark)


def _triggers(pictures: Sequence[triggers.Picture], class_names: Sequence[str]) -> list[Section]:
    shown = [_picture(picture, class_names) for picture in pictures]
    return [Section("Pictures with triggers", [Pictures(shown)])] if shown else []


def _picture(picture: triggers.Picture, class_names: Sequence[str]) -> Picture:
    own, before, after = (
        class_text(index, class_names[index]) for index in (picture.label, picture.before, picture.after)
    )
    caption = f"{picture.trigger}, right of the clean picture. Class {own}; the original says {before}, the hardened "
    caption += f"model {after}."
    pair = np.concatenate([picture.clean, picture.triggered], axis=2)
    tone: Tone = "good" if picture.after == picture.label else "bad"
    return Picture(pixel_uri(pair), f"clean and with {picture.trigger}", caption, tone=tone)


def _worst_probes(document: Mapping[str, Any], class_names: Sequence[str]) -> list[Section]:
    check = next(check for check in document["checks"] if check["name"] == "probes")

    def flow(success: Mapping[str, Any], target: int) -> str:
        return f"{share_text(success)} to {class_text(target, class_names[target])}"

    rows = [
        (row["probe"], flow(row["original"], row["original_target"]), flow(row["after"], row["target"]))
        for row in check["details"].get("worst", [])
    ]
    note = "Built-in triggers that nobody has to know, and the largest share of images that each sends to one class."
    return [Section("Worst built-in probes", [Table(("probe", "original", "hardened"), rows, note)])] if rows else []


def _hashes(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("hardened sha256", document["hardened"]["sha256"]),
        ("original sha256", document["original"]["sha256"]),
        ("clean images sha256", document["clean_set"]["sha256"]),
    ]
