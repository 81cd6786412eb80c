# SPDX-License-Identifier: Apache-2.0
"""MixUp (Zhang et al., ICLR 2018): convex pairs of pictures with the same convex pairs of their targets."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def mixup(images: Tensor, targets: Tensor, alpha: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Mix each picture with another of the batch, one share for the whole batch.

    Args:
        images: Pixels ``(N, C, H, W)``.
        targets: Class probabilities ``(N, K)``.
        alpha: Both parameters of the Beta distribution that the share is drawn from; 0 mixes nothing.
        rng: Source of chance.

    Returns:
        Mixed pixels and targets of the same shapes.
    """
    if alpha == 0:
        return images, targets
    share = float(rng.beta(alpha, alpha))
    other = torch.from_numpy(rng.permutation(len(images))).to(images.device)
    return share * images + (1 - share) * images[other], share * targets + (1 - share) * targets[other]
