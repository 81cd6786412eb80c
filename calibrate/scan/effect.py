# SPDX-License-Identifier: Apache-2.0
"""What a trigger does to clean images: where each class is sent, and how surely.

Measured on images that the model classifies rightly without the trigger, so that the model's own
mistakes count neither for nor against it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from patcher.calibrate.classifier import Classifier
from patcher.data.clean_set import CleanSet, Indices
from patcher.triggers.trigger import Trigger


@dataclass(frozen=True)
class Effect:
    """Where triggered images go.

    Attributes:
        counts: int64 ``(K, K)``: triggered images of class s (row) that get class t (column).
    """

    counts: NDArray[np.int64]

    def success(self, target: int) -> tuple[int, int]:
        """Images of other classes that get `target`, and how many there are."""
        others = np.delete(self.counts, target, axis=0)
        return int(others[:, target].sum()), int(others.sum())

    def sources(self, target: int, share: float) -> tuple[int, ...]:
        """Classes of which at least `share` of the images get `target`."""
        totals = self.counts.sum(axis=1)
        reached = (totals > 0) & (self.counts[:, target] >= share * totals)
        return tuple(int(label) for label in np.flatnonzero(reached) if label != target)

    def pairs(self, share: float) -> dict[int, int]:
        """Source to target for each class of which at least `share` of the images go to one other class."""
        found = {}
        for source, row in enumerate(self.counts):
            target = int(row.argmax())
            if target != source and row.sum() and row[target] >= share * row.sum():
                found[source] = target
        return found


@torch.no_grad()
def predicted_classes(classifier: Classifier, clean_set: CleanSet, *, batch_size: int) -> NDArray[np.int64]:
    """The model's classes for all clean images, without a trigger: int64 ``(N,)``."""
    batches = classifier.batches(clean_set, np.arange(len(clean_set)), batch_size)
    logits = np.concatenate([classifier.logits(images).cpu().numpy() for images, _ in batches])
    return clean_set.task.answers(logits, "logits")


@torch.no_grad()
def measure_effect(
    classifier: Classifier,
    clean_set: CleanSet,
    predicted: NDArray[np.int64],
    indices: Indices,
    trigger: Trigger,
    *,
    batch_size: int,
) -> Effect:
    """Put a trigger into the images at `indices` that are classified rightly.

    Args:
        classifier: The model.
        clean_set: Clean images.
        predicted: The model's classes without a trigger, int64 ``(N,)``.
        indices: Which images.
        trigger: The trigger.
        batch_size: Images in memory at a time.
    """
    counts = np.zeros((classifier.model.num_classes,) * 2, np.int64)
    right = indices[clean_set.task.right(predicted[indices], clean_set.labels[indices])]
    for images, labels in classifier.batches(clean_set, right, batch_size):
        logits = classifier.logits(trigger.apply(images))
        np.add.at(counts, clean_set.task.moves(logits, labels, trigger.target), 1)
    return Effect(counts)
