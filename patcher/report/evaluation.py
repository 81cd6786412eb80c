# SPDX-License-Identifier: Apache-2.0
"""The report of `evaluate`: ``report.json``, ``report.html``, and ``roc.png`` for a model whose flag has a score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patcher.data.image_sources import Pixels
from patcher.files import replace_file
from patcher.gate.triggers import as_bytes
from patcher.measure.scores import AttackScore
from patcher.report.folder import make_folder
from patcher.report.harden.rows import score_rows
from patcher.report.page.blocks import Cell, Notes, Picture, Pictures, Section, Table, Tone
from patcher.report.page.page import Page, render
from patcher.report.page.parts import class_section, run_section
from patcher.report.page.pictures import charts, pixel_uri
from patcher.report.report import Report
from patcher.report.roc import roc_picture
from patcher.report.sections import model_section
from patcher.report.text import class_text, share_text
from patcher.steps.flags import Detection
from patcher.steps.prepare import Prepared


def evaluation_report(
    prepared: Prepared, data: str, attack: AttackScore | None, detection: Detection | None = None
) -> Report:
    """Put together what `evaluate` found.

    Args:
        prepared: The model and the images.
        data: Where the images came from.
        attack: ASR and SIA, where triggered images were given.
        detection: TPR and FPR, where the model has a flag.
    """
    labels = prepared.clean_set.labels
    sections = {
        "model": model_section(prepared.model),
        "data": {
            "name": Path(data).name,
            "images": len(prepared.clean_set),
            "sha256": prepared.clean_set.sha256,
            "class_order": prepared.clean_set.class_order,
        },
        "preprocess": prepared.preprocess.as_json(),
        **({"task": prepared.task.name} if prepared.task.right_means else {}),
        "ACC": prepared.accuracy.as_json(),
        **prepared.task.figures(prepared.scores, labels),
        "per_class": prepared.task.per_class(labels, prepared.predicted, prepared.clean_set.class_names),
        "mistaken": prepared.task.mistaken(labels, prepared.predicted),
        **(attack.as_json() if attack else {}),
        **(detection.as_json() if detection else {}),
    }
    return Report("evaluate", "pass", (), sections)


SCORE_HEADER = ("measured", "share [95 % interval]", "images")
_SCORES = {
    "ACC": "clean images with their label (ACC)",
    "ASR": "triggered images with the attacker's class (ASR)",
    "SIA": "triggered images with their true class (SIA)",
    "TPR": "triggered images that are flagged (TPR)",
    "FPR_target": "clean images of a flagged class that are flagged (FPR)",
    "FPR": "clean images that are flagged (FPR)",
}


def score_shares(document: Mapping[str, Any]) -> list[tuple[str, str, str, float | None]]:
    """Every share that was measured: its short name, text, number of images, value."""
    return [
        (name, share_text(document[name]), str(document[name]["count"]), document[name]["value"])
        for name in _SCORES
        if name in document
    ]


@dataclass(frozen=True)
class Answer:
    """One triggered image, and what the model says of it.

    Attributes:
        pixels: ``(C, H, W)`` as in `CleanSet`.
        label: Its true class.
        answer: The model's.
    """

    pixels: Pixels
    label: int
    answer: int


def write_evaluation(
    report: Report, folder: Path, detection: Detection | None, answers: Sequence[Answer], class_names: Sequence[str]
) -> None:
    """Write the folder; each file appears whole or not at all.

    Args:
        report: What `evaluate` found.
        folder: Where to write; made where it is missing.
        detection: Of a model with a flag.
        answers: Some of the triggered images.
        class_names: In class order.

    Raises:
        InputError: The file system refuses.
    """
    make_folder(folder)
    pictures = roc_picture(detection)
    examples = [_example(answer, class_names) for answer in answers]
    page = _page(report.as_json(), pictures, examples).encode()
    for name, content in {"report.json": report.to_json().encode(), "report.html": page, **pictures}.items():
        replace_file(folder / name, content)


def _example(answer: Answer, names: Sequence[str]) -> Picture:
    own, given = (class_text(index, names[index]) for index in (answer.label, answer.answer))
    caption = f"Class {own}; the model says {given}."
    tone: Tone = "good" if answer.label == answer.answer else "bad"
    return Picture(pixel_uri(as_bytes(answer.pixels)), f"a triggered image of class {own}", caption, tone=tone)


def _page(document: Mapping[str, Any], pictures: Mapping[str, bytes], examples: Sequence[Picture]) -> str:
    rows: list[tuple[str | Cell, ...]] = [
        (_SCORES[name], Cell(text, bar=value), count) for name, text, count, value in score_shares(document)
    ]
    rows += [(name, text, "") for name, text in score_rows(document)]
    warnings = [f"{line}: check the class order (--classes)" for line in document["mistaken"]]
    sections = [
        Section("Measured", [Table(SCORE_HEADER, rows), *([Notes(warnings)] if warnings else [])]),
        *([Section("Triggered images", [Pictures(examples)])] if examples else []),
        *charts("The flag's score", pictures),
        class_section(document["per_class"]),
        run_section(
            document,
            [("model sha256", document["model"]["sha256"]), ("images sha256", document["data"]["sha256"])],
        ),
    ]
    summary = f"Measured on {document['data']['images']} images of {document['data']['name']}."
    return render(
        Page("evaluate", document["model"]["name"], document["verdict"], summary, (), sections, word="measured")
    )
