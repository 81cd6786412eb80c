# SPDX-License-Identifier: Apache-2.0
"""Measure a model on labelled and on triggered images: `patcher evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from patcher.data.preprocess import resolve_preprocess
from patcher.files import Source
from patcher.measure.scores import AttackScore, Share, predict
from patcher.model.model import read_model
from patcher.report.evaluation import Answer, evaluation_report, write_evaluation
from patcher.report.folder import check_report_dir
from patcher.report.report import Report, Reported
from patcher.settings import settings_alone
from patcher.steps.before_after import score
from patcher.steps.flags import Detection, measure_detection
from patcher.steps.prepare import Prepared, prepare
from patcher.tasks import Target
from patcher.triggers.file import holds_triggers
from patcher.triggers.triggered import Triggered, read_triggered, triggered_by

if TYPE_CHECKING:
    import onnx

_SHOWN = 8  # triggered images on the page


@dataclass(frozen=True)
class EvaluateResult(Reported):
    """What `evaluate` measured.

    Attributes:
        report: The same as a report.
        accuracy: Images that get their label (ACC).
        attack: ASR and SIA; ``None`` where no triggered images were given.
        detection: TPR and FPR; ``None`` for a model without a flag.
        figures: Further figures of the task, by name: mAP of several labels a row.
    """

    report: Report
    accuracy: Share
    attack: AttackScore | None
    detection: Detection | None
    figures: Mapping[str, float] = field(default_factory=dict)


def evaluate(
    model: Source | bytes | onnx.ModelProto,
    *,
    data: Source,
    triggered: Source | None = None,
    target: Target | None = None,
    preprocess: Mapping[str, Any] | None = None,
    report_dir: Source | None = None,
    **options: Any,
) -> EvaluateResult:
    """Measure ACC, ASR and SIA where triggered images are given, TPR and FPR where the model flags.

    Args:
        model: Path, bytes or ``ModelProto``.
        data: Labelled images, as a clean set.
        triggered: ``.npz`` of triggered images, or a scan's ``triggers.npz`` to put into the clean images.
        target: The attacker's class.
        preprocess: Keyword arguments of `resolve_preprocess`.
        report_dir: Where ``report.json``, ``report.html`` and, for a model whose flag has a score, ``roc.png`` go.
        options: Fields of `Settings`.

    Raises:
        InputError: A file, folder or option cannot be used.
    """
    settings = settings_alone("evaluate", options)
    check_report_dir(report_dir)
    read = read_model(model, scores=settings.scores)
    prepared = prepare(read, data, resolve_preprocess(read, **(preprocess or {})), settings, least_classes=1)
    attack = None
    if triggered is not None and holds_triggers(triggered):
        attack = triggered_by(triggered, prepared.clean_set, target)
    elif triggered is not None:
        attack = read_triggered(triggered, read, prepared.preprocess, target)
    scored = score(prepared.session, prepared, attack, settings) if attack else None
    detection = measure_detection(prepared.session, prepared, attack, settings)
    report = evaluation_report(prepared, str(data), scored, detection)
    if report_dir is not None:
        answers = _answers(prepared, attack) if attack else []
        write_evaluation(report, Path(report_dir), detection, answers, prepared.clean_set.class_names)
    figures = prepared.task.figures(prepared.scores, prepared.clean_set.labels)
    return EvaluateResult(report, prepared.accuracy, scored, detection, figures)


def _answers(prepared: Prepared, attack: Triggered) -> list[Answer]:
    """The model's answers to a few triggered images, evenly taken from all; none where they are no pictures."""
    if not prepared.model.is_picture or not prepared.task.exclusive:
        return []
    chosen = np.unique(np.linspace(0, len(attack.labels) - 1, _SHOWN).round().astype(int))
    scores = predict(prepared.session, prepared.model, prepared.preprocess, attack.pixels[chosen])
    return [
        Answer(attack.pixels[index], int(attack.labels[index]), int(answer))
        for index, answer in zip(chosen, scores.argmax(axis=1), strict=True)
    ]
