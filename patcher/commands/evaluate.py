# SPDX-License-Identifier: Apache-2.0
"""Measure a model on labelled and on triggered images: `patcher evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patcher.data.preprocess import resolve_preprocess
from patcher.files import Source, replace_file
from patcher.measure.scores import AttackScore, Share
from patcher.model.model import read_model
from patcher.report.evaluation import evaluation_report
from patcher.report.folder import check_report_dir, make_folder
from patcher.report.report import Report, Reported
from patcher.report.roc import roc_picture
from patcher.settings import settings_alone
from patcher.steps.before_after import score
from patcher.steps.flags import Detection, measure_detection
from patcher.steps.prepare import prepare
from patcher.tasks import Target
from patcher.triggers.file import holds_triggers
from patcher.triggers.triggered import read_triggered, triggered_by

if TYPE_CHECKING:
    import onnx


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
        report_dir: Where ``report.json`` is written, and ``roc.png`` for a model whose flag has a score.
        options: Fields of `Settings`.

    Raises:
        InputError: A file, folder or option cannot be used.
    """
    settings = settings_alone("evaluate", options)
    check_report_dir(report_dir)
    read = read_model(model)
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
        make_folder(Path(report_dir))
        for name, content in {"report.json": report.to_json().encode(), **roc_picture(detection)}.items():
            replace_file(Path(report_dir) / name, content)
    figures = prepared.task.figures(prepared.scores, prepared.clean_set.labels)
    return EvaluateResult(report, prepared.accuracy, scored, detection, figures)
