# SPDX-License-Identifier: Apache-2.0
"""From the smallest change to a trigger worth defending against: a little stronger.

At the edge of success many images are barely moved, and a defence fitted there would stop short of the attacker's
trigger.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from patcher.calibrate.classifier import Classifier
from patcher.calibrate.scan.goal import Goal
from patcher.data.clean_set import CleanSet, Indices
from patcher.triggers.trigger import Trigger

# Chosen, not measured.
_GAINS = (1.0, 1.15, 1.3, 1.5, 1.75, 2.0)
_STRONG = 0.98


def strengthen(
    classifier: Classifier, clean_set: CleanSet, goal: Goal, trigger: Trigger, indices: Indices, *, batch_size: int
) -> Trigger:
    """The weakest of a few gains that moves nearly all images; else the most successful.

    Args:
        classifier: The model.
        clean_set: Clean images.
        goal: Where images are to be sent.
        trigger: The change.
        indices: Images eligible for the goal.
        batch_size: Images in memory at a time.
    """
    wanted = _STRONG * (1.0 if goal.target is not None else 1 - 1 / classifier.model.num_classes)
    tried: list[tuple[float, Trigger]] = []
    for gain in _GAINS:
        stronger = trigger.amplified(gain)
        found = _margins(classifier, clean_set, goal, stronger, indices, batch_size)
        tried.append((float((found > 0).mean()) if len(found) else 0.0, stronger))
        if tried[-1][0] >= wanted:
            break
    return max(tried, key=lambda item: item[0])[1]


@torch.no_grad()
def _margins(
    classifier: Classifier, clean_set: CleanSet, goal: Goal, trigger: Trigger, indices: Indices, batch_size: int
) -> NDArray[np.float64]:
    """Margin of the goal on each triggered image."""
    found = []
    for images, labels in classifier.batches(clean_set, indices, batch_size):
        wanted = torch.full_like(
            labels[:, 0] if labels.ndim > 1 else labels, -1 if goal.target is None else goal.target
        )
        logits = classifier.logits(trigger.apply(images))
        found.append(classifier.task.margins(logits, labels, wanted).cpu().numpy())
    return np.concatenate(found).astype(np.float64) if found else np.empty(0)
