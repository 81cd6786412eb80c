# SPDX-License-Identifier: Apache-2.0
"""Rank targets before any inversion: the maximum-margin statistic (Wang et al., MM-BD, S&P 2024).

    margin_t = max over x in [0, 1] of  logit_t(x) - max of the other logits

by projected gradient ascent from a few starting pictures, all targets at once. A backdoor tends to
overfit its target, whose margin then stands out. It needs no data (pictures of noise serve as starts),
sees no trigger and is weaker than an inversion: here it orders targets and never clears one.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patcher.calibrate.classifier import Classifier
from patcher.progress import Progress, no_progress
from patcher.tasks import SINGLE_LABEL

# Chosen, not measured.
_STEP = 0.05  # of a pixel, along the sign of the gradient
_DECAY = 0.85


def noise(classifier: Classifier, count: int, size: tuple[int, int], *, seed: int) -> NDArray[np.float32]:
    """Starting pictures without data: uniform noise ``(count, C, H, W)`` in [0, 1]."""
    shape = (count, classifier.model.channels, *size)
    return np.random.default_rng(seed).random(shape, np.float32)


def maximum_margins(
    classifier: Classifier,
    starts: NDArray[np.float32],
    *,
    steps: int,
    batch_size: int,
    progress: Progress = no_progress,
) -> NDArray[np.float64]:
    """The largest margin found for each class.

    Args:
        classifier: The model.
        starts: Starting pictures ``(S, C, H, W)`` in [0, 1].
        steps: Ascent steps.
        batch_size: Images in memory at a time.
        progress: Told of each piece of work.

    Returns:
        float64 ``(K,)``, in logits.
    """
    classes = classifier.model.num_classes
    targets = np.repeat(np.arange(classes), len(starts))
    chosen = np.tile(np.arange(len(starts)), classes)
    best = np.full(classes, -np.inf)
    for start in range(0, len(targets), batch_size):
        wanted = targets[start : start + batch_size]
        images = classifier.tensor(starts[chosen[start : start + batch_size]])
        found = _ascend(classifier, images, torch.from_numpy(wanted).to(classifier.device), steps)
        np.maximum.at(best, wanted, found.cpu().numpy())
        progress("rank targets", min(start + batch_size, len(targets)), len(targets))
    return best


def _ascend(classifier: Classifier, images: Tensor, targets: Tensor, steps: int) -> Tensor:
    """Signed gradient ascent of the margin, smaller steps towards the end; the best margin of each image."""
    best = torch.full((len(images),), -torch.inf, device=images.device)
    for step in range(steps):
        images = images.detach().requires_grad_()
        values = SINGLE_LABEL.margins(classifier.logits(images), targets, targets)
        best = torch.maximum(best, values.detach())
        (slope,) = torch.autograd.grad(values.sum(), images)
        images = (images + _STEP * _DECAY**step * slope.sign()).clamp(0, 1)
    with torch.no_grad():
        return torch.maximum(best, SINGLE_LABEL.margins(classifier.logits(images), targets, targets))
