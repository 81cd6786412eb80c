# SPDX-License-Identifier: Apache-2.0
"""Random pictures near the clean ones, as far as the model itself takes them for the same; frames of clips likewise.

A photograph mirrored is a photograph; a mirrored digit is not. So each kind of change is tried first: it is
used only where the unpatched model loses no more accuracy under it than the calibration may cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from patcher.calibrate.classifier import Classifier
from patcher.data.clean_set import CleanSet

Augmentation = Callable[[Tensor, np.random.Generator], Tensor]

# Chosen, not measured.
_SHIFT = 1 / 8  # of the side
_CLIP_RANK = 4  # (C, T, H, W) or (T, C, H, W)
_TRIED_IMAGES = 512
_TRIED_AT_ONCE = 32  # not the batch size: chance must not depend on it


def mirror(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Mirror each picture ``(N, C, H, W)``, or clip ``(N, ..., H, W)``, left to right with probability 1/2."""
    mirrored = torch.from_numpy(rng.random(len(images)) < 0.5).to(images.device)
    return images.flip(-1).where(mirrored.view(-1, *[1] * (images.ndim - 1)), images)


def shift(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Move the batch ``(N, ..., H, W)`` by up to an eighth of its sides, filling in by reflection."""
    height, width = images.shape[-2:]
    down, right = int(_SHIFT * height), int(_SHIFT * width)
    top, left = int(rng.integers(0, 2 * down + 1)), int(rng.integers(0, 2 * right + 1))
    planes = images.reshape(-1, *images.shape[-3:])
    padded = torch.nn.functional.pad(planes, (right, right, down, down), mode="reflect")
    moved = padded[..., top : top + height, left : left + width].reshape(images.shape)
    return moved.contiguous(memory_format=torch.channels_last) if images.ndim == 4 else moved


@torch.no_grad()
def tolerated(
    classifier: Classifier, clean_set: CleanSet, *, epsilon: float, rng: np.random.Generator
) -> tuple[Augmentation, ...]:
    """The changes under which the unpatched model keeps its accuracy on *fit* images.

    Args:
        classifier: The model.
        clean_set: Clean images.
        epsilon: Accuracy that may be lost, 0 to 1.
        rng: Source of chance.
    """
    tried = rng.permutation(clean_set.fit)[:_TRIED_IMAGES]
    changes = _changes(classifier, clean_set)
    if not changes:
        return ()
    plain = classifier.hits(clean_set, tried, batch_size=_TRIED_AT_ONCE).float()
    kept = []
    for change in changes:
        batches = classifier.batches(clean_set, tried, _TRIED_AT_ONCE)
        hits = [classifier.task.hits(classifier.logits(change(images, rng)), labels) for images, labels in batches]
        if float((plain - torch.cat(hits).float()).mean()) <= epsilon:
            kept.append(change)
    return tuple(kept)


def _changes(classifier: Classifier, clean_set: CleanSet) -> Sequence[Augmentation]:
    """What may be tried: of arrays only clips have frames that can be mirrored and moved."""
    return (mirror, shift) if classifier.model.is_picture or len(clean_set.shape) >= _CLIP_RANK else ()


def apply_all(changes: Sequence[Augmentation], images: Tensor, rng: np.random.Generator) -> Tensor:
    """Apply each change in turn."""
    for change in changes:
        images = change(images, rng)
    return images
