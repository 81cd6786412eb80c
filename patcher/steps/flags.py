# SPDX-License-Identifier: Apache-2.0
"""Measure the run-time flag of a model with a second pass: TPR, and FPR twice.

- **TPR** share of triggered images (those that ASR is counted over) that are flagged.
- **FPR, target classes** share flagged among clean images that the first pass gives a target class; the
  figure that papers give.
- **FPR, all traffic** share flagged among all clean images; what production sees.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patcher.measure.scores import Share, counted_images, predict_flagged, share
from patcher.runtime import TARGETS_KEY
from patcher.settings import Settings
from patcher.steps.prepare import Prepared
from patcher.triggers.triggered import Triggered

if TYPE_CHECKING:
    import onnxruntime


@dataclass(frozen=True)
class Detection:
    """The flag's shares; the first is ``None`` where no triggered images were given."""

    tpr: Share | None
    fpr_target: Share
    fpr: Share

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        tpr = {} if self.tpr is None else {"TPR": self.tpr.as_json()}
        return tpr | {"FPR_target": self.fpr_target.as_json(), "FPR": self.fpr.as_json()}


def measure_detection(
    session: onnxruntime.InferenceSession, prepared: Prepared, attack: Triggered | None, settings: Settings
) -> Detection | None:
    """Count flags on clean and on triggered images; ``None`` for a model without a flag."""
    targets = read_targets(session)
    if targets is None:
        return None
    model, pixels = prepared.model, prepared.clean_set.pixels
    scores, flags = predict_flagged(session, model, prepared.preprocess, pixels, batch_size=settings.batch_size)
    # An image that is not flagged has the first pass's class; one that is had a target.
    suspicious = flags | np.isin(scores.argmax(axis=1), targets)
    tpr = None
    if attack is not None:
        found = predict_flagged(session, model, prepared.preprocess, attack.pixels, batch_size=settings.batch_size)[1]
        tpr = share(found[counted_images(attack)])
    return Detection(tpr, share(flags[suspicious]), share(flags))


def read_targets(session: onnxruntime.InferenceSession) -> NDArray[np.int64] | None:
    """Target classes that a model looks for; ``None`` for a model without a flag."""
    text = session.get_modelmeta().custom_metadata_map.get(TARGETS_KEY)
    return None if text is None else np.array(json.loads(text), np.int64)
