# SPDX-License-Identifier: Apache-2.0
"""Measure the run-time flag of a model with a second pass: TPR, and FPR twice.

- **TPR** share of triggered images (those that ASR is counted over) that are flagged.
- **FPR, target classes** share flagged among clean images that the first pass gives a target class; the
  figure that papers give.
- **FPR, all traffic** share flagged among all clean images; what production sees.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patcher.data.image_sources import Pixels
from patcher.measure.scores import Flagged, Share, auroc, counted_images, predict_flagged, share
from patcher.settings import Settings
from patcher.steps.prepare import Prepared
from patcher.triggers.triggered import Triggered
from patcher.two_files import FLAG_KEY, TARGETS_KEY

if TYPE_CHECKING:
    import onnxruntime


_FALSE_ALARMS = (0.01, 0.05)


@dataclass(frozen=True)
class Detection:
    """The flag's shares.

    Attributes:
        tpr: ``None`` where no triggered images were given.
        fpr_target: ``None`` for a flag that looks for no target.
        fpr: On all clean images.
        auroc: Of the flag's score; ``None`` without triggered images or without a score.
        tpr_at: False alarms to the share of triggered images flagged there, by the score.
        scores: The scores themselves, of clean float32 ``(n,)`` and of triggered images ``(m,)``, for the picture.
    """

    tpr: Share | None
    fpr_target: Share | None
    fpr: Share
    auroc: float | None = None
    tpr_at: Mapping[float, float] = field(default_factory=dict)
    scores: tuple[NDArray[np.float32], NDArray[np.float32]] | None = field(default=None, repr=False, compare=False)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        shares = {"TPR": self.tpr, "FPR_target": self.fpr_target, "FPR": self.fpr}
        found: dict[str, Any] = {name: value.as_json() for name, value in shares.items() if value is not None}
        if self.auroc is not None:
            found["AUROC"] = self.auroc
            found["TPR_at_FPR"] = {f"{rate:g}": value for rate, value in self.tpr_at.items()}
        return found


def measure_detection(
    session: onnxruntime.InferenceSession, prepared: Prepared, attack: Triggered | None, settings: Settings
) -> Detection | None:
    """Count flags on clean and on triggered images; ``None`` for a model without a flag."""
    targets, scored = read_targets(session), has_score(session)
    if targets is None and not scored:
        return None
    model = prepared.model

    def run(pixels: Pixels) -> Flagged:
        size = settings.batch_size
        return predict_flagged(session, model, prepared.preprocess, pixels, batch_size=size, scored=scored)

    clean = run(prepared.clean_set.pixels)
    on_target = None
    if targets is not None:
        # An image that is not flagged has the first pass's class; one that is had a target.
        on_target = share(clean.flags[clean.flags | np.isin(clean.scores.argmax(axis=1), targets)])
    if attack is None:
        return Detection(None, on_target, share(clean.flags))
    triggered = run(attack.pixels)
    counted = counted_images(attack, model.num_classes, prepared.task)
    figures: dict[str, Any] = {}
    if clean.unusual is not None and triggered.unusual is not None:
        unusual, limits = triggered.unusual[counted], np.quantile(clean.unusual, [1 - rate for rate in _FALSE_ALARMS])
        caught = {rate: float((unusual > limit).mean()) for rate, limit in zip(_FALSE_ALARMS, limits, strict=True)}
        figures = {"auroc": auroc(clean.unusual, unusual), "tpr_at": caught, "scores": (clean.unusual, unusual)}
    return Detection(share(triggered.flags[counted]), on_target, share(clean.flags), **figures)


def has_score(session: onnxruntime.InferenceSession) -> bool:
    """Whether a model scores how unusual an image is."""
    return FLAG_KEY in session.get_modelmeta().custom_metadata_map


def read_targets(session: onnxruntime.InferenceSession) -> NDArray[np.int64] | None:
    """Target classes that a model looks for; ``None`` for a model that looks for none."""
    text = session.get_modelmeta().custom_metadata_map.get(TARGETS_KEY)
    return None if text is None else np.array(json.loads(text), np.int64)
