# SPDX-License-Identifier: Apache-2.0
"""``scan.html``: a scan as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from patcher.report.page.blocks import Cell, Notes, Section, Table, Tone
from patcher.report.page.page import Page, render, tone_of
from patcher.report.page.parts import run_section
from patcher.report.page.pictures import charts
from patcher.report.scan.document import SEARCHED_HEADER, latent_text, searched_rows
from patcher.report.text import class_text, percent

_LEVELS = ("clean", "inconclusive", "suspicious", "backdoor")
_CLASSES = ("class", "clean accuracy", "verdict", "nearest by", "what it takes", "times smaller", "held-out success")
_UNITS = "Each kind has its own unit; rms: root mean square of the change of the pixels, which go from 0 to 1."
_FAMILIES = ("class", "kind", "smallest change", "unit", "score", "times smaller", "gap", "held-out", "seeds")


def scan_page(document: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """The page's text.

    Args:
        document: ``scan.json`` as plain JSON values.
        pictures: File name to PNG bytes.
    """
    sizes = {name: content for name, content in pictures.items() if name == "sizes.png"}
    triggers = {name: content for name, content in pictures.items() if name not in sizes}
    images, accuracy = document["clean_set"]["images"], document["ACC"]["value"]
    mode = f" The attack is {document['mode']}." if document["mode"] else ""
    sections = [
        *charts("The triggers that were found", triggers),
        Section("Class by class", [_classes(document), *_left_out(document)]),
        Section("Second opinion, without any form of trigger", [Notes([latent_text(document)])]),
        Section("What was searched", [Table(SEARCHED_HEADER, searched_rows(document), _UNITS, cards=True)]),
        *charts("Sizes of the smallest changes", sizes, folded=True),
        Section("Every class and kind", [_families(document)], folded=True),
        run_section(document, [("model sha256", document["model"]["sha256"]), *_images(document)], document["options"]),
    ]
    summary = f"{images} clean images, accuracy {percent(accuracy)}, seed {document['options']['seed']}.{mode}"
    return render(Page("scan", document["model"]["name"], document["verdict"], summary, document["reasons"], sections))


def without_data_page(document: Mapping[str, Any], header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The page of a scan without images: the classes by their maximum margin.

    Args:
        document: ``scan.json`` as plain JSON values.
        header: Of the table.
        rows: A class each.
    """
    note = "A class that an attacker planted can have a far larger margin than the others; most do not stand out here."
    sections = [
        Section("Classes by maximum margin", [Table(header, rows, note)]),
        run_section(document, [("model sha256", document["model"]["sha256"])], document["options"]),
    ]
    summary = "Classes ranked from pictures of noise alone, which never clears a model."
    return render(Page("scan", document["model"]["name"], document["verdict"], summary, document["reasons"], sections))


def _classes(document: Mapping[str, Any]) -> Table:
    accuracies = {row["class"]: row["accuracy"] for row in document["per_class"]}
    rows = []
    for item in document["targets"]:
        best = max(item["families"], key=_conspicuous)
        verdict, accuracy = item["verdict"], accuracies.get(item["target"])
        rows.append(
            (
                class_text(item["target"], item["name"]),
                "" if accuracy is None else Cell(percent(accuracy), bar=accuracy),
                Cell(verdict, "quiet" if verdict == "clean" else tone_of(verdict)),
                best["family"],
                best["means"] if best["reached"] else f"not reached with {best['means']}",
                _number(best["ratio"]),
                _hits(best),
            )
        )
    note = (
        "Of each class the kind of change that is most conspicuous. Times smaller: how many times smaller it is than "
        "the median class's change of that kind. Held-out success: on images that no search has seen."
    )
    return Table(_CLASSES, rows, note, cards=True)


def _conspicuous(figures: Mapping[str, Any]) -> tuple[int, bool, float]:
    return _LEVELS.index(figures["verdict"]), figures["reached"], figures["ratio"] or 0.0


def _families(document: Mapping[str, Any]) -> Table:
    rows = [
        (
            class_text(item["target"], item["name"]),
            figures["family"],
            Cell(f"{'' if figures['reached'] else '> '}{figures['size']:.3g}", _quiet(figures)),
            figures["unit"],
            *(_number(figures[key]) for key in ("score", "ratio", "gap")),
            _hits(figures),
            f"{figures['agreement']:.0%} of {len(figures['sizes'])}",
        )
        for item in document["targets"]
        for figures in item["families"]
    ]
    note = (
        "Smallest change: the median over the seeds; > where the class was not reached, with the largest tried. Score: "
        "deviations of the log-size below the median of all classes. Gap: the factor to the next larger change. Seeds: "
        "how many of them found a change below half the median."
    )
    return Table(_FAMILIES, rows, note, cards=True)


def _quiet(figures: Mapping[str, Any]) -> Tone:
    return "" if figures["reached"] else "quiet"


def _hits(figures: Mapping[str, Any]) -> str:
    return f"{figures['held_out_hits']} of {figures['held_out_count']}" if figures["held_out_count"] else ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _left_out(document: Mapping[str, Any]) -> list[Notes]:
    count = document["targets_not_inverted"]
    return [Notes([f"{count} classes were ranked lower and not searched one by one."])] if count else []


def _images(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [("clean images sha256", document["clean_set"]["sha256"])]
