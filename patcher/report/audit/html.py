# SPDX-License-Identifier: Apache-2.0
"""``audit.html``: an audit of a training set as a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from patcher.report.audit.document import LABEL_HEADER, label_rows
from patcher.report.page.blocks import Cell, Notes, Row, Section, Table
from patcher.report.page.page import Page, render
from patcher.report.page.parts import class_section, named, run_section
from patcher.report.page.pictures import charts
from patcher.report.text import percent


def audit_page(document: Mapping[str, Any], sheet: Mapping[str, bytes]) -> str:
    """The page's text.

    Args:
        document: ``audit.json`` as plain JSON values.
        sheet: ``suspects.png``; empty where nobody is suspected.
    """
    images, accuracy, count = document["training_set"]["images"], document["accuracy"]["value"], document["suspects"]
    summary = f"{count} of {images} training images suspected; accuracy on all of them {percent(accuracy)}."
    sections = [
        *charts("The suspects", sheet),
        Section("Labels with a second group of images", [_labels(document)]),
        class_section(document["per_class"]),
        *_neurons(document),
        run_section(document, _hashes(document), document["options"]),
    ]
    return render(
        Page("audit-data", document["model"]["name"], document["verdict"], summary, document["reasons"], sections)
    )


def _labels(document: Mapping[str, Any]) -> Table | Notes:
    if not document["labels"]:
        return Notes(["No label has one."])
    rows: list[Row] = [
        (*row[:-1], Cell(row[-1], "bad" if row[-1] == "poisoned" else "quiet")) for row in label_rows(document)
    ]
    note = (
        "Second group: images that drive some neurons beyond the label's others. Lose the label: the share that "
        "is answered otherwise once activations are bounded; poisoned images do, naturally different ones do not."
    )
    return Table(LABEL_HEADER, rows, note, cards=True)


def _neurons(document: Mapping[str, Any]) -> list[Section]:
    rows = [
        (group["name"], named(neuron), f"{value:.3f}")
        for group in document["labels"]
        for neuron, value in zip(group["neurons"], group["separability"], strict=True)
    ]
    note = "Separability: the share of the neuron's variance that a split of the label's images in two explains."
    table = Table(("label", "neuron", "separability"), rows, note)
    return [Section("Neurons that set the groups apart", [table], folded=True)] if rows else []


def _hashes(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [("model sha256", document["model"]["sha256"]), ("training set sha256", document["training_set"]["sha256"])]
