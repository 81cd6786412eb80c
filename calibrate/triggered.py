# SPDX-License-Identifier: Apache-2.0
"""Clean pictures with estimated triggers, under their true labels (the ideal purification of NFT, Eq. 3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from patcher.calibrate.classifier import Classifier, Rewrite
from patcher.clean_set import CleanSet, Indices
from patcher.errors import InputError
from patcher.trigger import Trigger


def check_triggers(triggers: Sequence[Trigger], images: CleanSet) -> None:
    """Check that triggers are for pictures of this size and for these classes.

    Raises:
        InputError: They are not.
    """
    shape, classes = tuple(images.pixels.shape[1:]), len(images.class_names)
    for item in triggers:
        if item.pattern.shape != shape:
            raise InputError(f"--triggers: patterns of shape {shape} expected, found {item.pattern.shape}; scan again")
        if max((item.target, *item.sources)) >= classes:
            raise InputError(f"--triggers: classes 0 to {classes - 1} expected, found target {item.target}; scan again")


def stamp(
    images: Tensor, labels: Tensor, triggers: Sequence[Trigger], rng: np.random.Generator | None
) -> tuple[Tensor, Tensor]:
    """Put a trigger into every picture whose class is a source of one.

    Args:
        images: Pixels ``(N, C, H, W)`` in [0, 1].
        labels: int64 ``(N,)``.
        triggers: Estimated triggers.
        rng: Chooses among several triggers of one class; ``None`` takes the first.

    Returns:
        The pixels, and bool ``(N,)``: which pictures carry a trigger now.
    """
    classes = labels.cpu().numpy()
    suits = np.array([np.isin(classes, item.sources) & (classes != item.target) for item in triggers])
    order = np.arange(len(triggers))[:, None] if rng is None else rng.random(suits.shape)
    chosen = np.where(suits, order, np.inf).argmin(axis=0)
    stamped = images.clone()
    for number, item in enumerate(triggers):
        rows = torch.from_numpy(np.flatnonzero(suits.any(axis=0) & (chosen == number))).to(images.device)
        if len(rows):
            stamped[rows] = item.apply(images[rows])
    return stamped, torch.from_numpy(suits.any(axis=0)).to(images.device)


@torch.no_grad()
def triggered_loss(
    classifier: Classifier,
    clean_set: CleanSet,
    indices: Indices,
    triggers: Sequence[Trigger],
    *,
    batch_size: int,
    rewrite: Rewrite | None = None,
) -> float:
    """Mean cross-entropy of the stamped pictures at `indices` with their true labels; 0 where none can be stamped."""
    total, count = 0.0, 0
    for images, labels in classifier.batches(clean_set, indices, batch_size):
        stamped, carries = stamp(images, labels, triggers, None)
        if carries.any():
            logits = classifier.logits(stamped[carries], rewrite=rewrite)
            total += float(torch.nn.functional.cross_entropy(logits, labels[carries], reduction="sum"))
            count += int(carries.sum())
    return total / max(1, count)
