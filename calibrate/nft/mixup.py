# SPDX-License-Identifier: Apache-2.0
"""MixUp (Zhang et al., ICLR 2018): convex pairs of pictures with the same convex pairs of their targets.

Between two words there is nothing, so that of token ids the vectors are mixed (Guo et al., "Augmenting Data with Mixup
for Sentence Classification", 2019): see `Classifier.mixed`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Mix = Callable[[Tensor, Tensor, float], Tensor]


def convex(first: Tensor, second: Tensor, share: float) -> Tensor:
    """``share * first + (1 - share) * second``."""
    return share * first + (1 - share) * second


def mixup(
    images: Tensor, targets: Tensor, alpha: float, rng: np.random.Generator, mix: Mix = convex
) -> tuple[Tensor, Tensor]:
    """Mix each picture with another of the batch, one share for the whole batch.

    Args:
        images: Pixels ``(N, C, H, W)``.
        targets: Class probabilities ``(N, K)``.
        alpha: Both parameters of the Beta distribution that the share is drawn from; 0 mixes nothing.
        rng: Source of chance.
        mix: How rows are mixed.

    Returns:
        Mixed pixels and targets of the same shapes.
    """
    if alpha == 0:
        return images, targets
    share = float(rng.beta(alpha, alpha))
    other = torch.from_numpy(rng.permutation(len(images))).to(images.device)
    return mix(images, images[other], share), convex(targets, targets[other], share)
