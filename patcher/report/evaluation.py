# SPDX-License-Identifier: Apache-2.0
"""The report of `evaluate`."""

from __future__ import annotations

from pathlib import Path

from patcher.measure.scores import AttackScore
from patcher.report.report import Report
from patcher.report.sections import model_section
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
