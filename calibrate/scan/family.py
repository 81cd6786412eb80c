# SPDX-License-Identifier: Apache-2.0
"""How a change is put into pixels, for many goals at once.

- patch      x' = (1 - m) x + m p,    m = sigmoid(a) (G, 1, H, W), p = sigmoid(b) (G, C, H, W); norm = sum of m
             (Neural Cleanse, Wang et al., S&P 2019, Sec. IV)
- additive   x' = clip(x + delta, 0, 1),   delta (G, C, H, W); norm = ||delta||_2
             (Xiang et al., TNNLS 2020)

G goals lie along the first axis. Pixels are in [0, 1]; norms are in pixels, before any normalisation.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patcher.triggers.trigger import Family

_MASK_LOGIT = 0.0
_START_DELTA = 1e-3
_SMALLEST_NORM = 1e-6


class Parameters(Protocol):
    """The changes of G goals, as tensors that an optimiser moves."""

    tensors: list[Tensor]

    def apply(self, images: Tensor, rows: Tensor) -> Tensor:
        """Put the change of goal ``rows[i]`` into image i; images ``(n, C, H, W)`` in [0, 1], rows int64 ``(n,)``."""

    def norms(self) -> Tensor:
        """Size of each goal's change, ``(G,)``, differentiable."""

    def arrays(self, row: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mask ``(1, H, W)`` and pattern ``(C, H, W)`` of one goal, as a `Trigger` holds them."""


class Patches:
    """Masks and patterns; see the module."""

    def __init__(self, count: int, shape: tuple[int, int, int], generator: torch.Generator) -> None:
        channels, height, width = shape
        device = generator.device
        masks = _MASK_LOGIT + torch.randn(count, 1, height, width, generator=generator, device=device)
        patterns = torch.randn(count, channels, height, width, generator=generator, device=device)
        self.tensors = [masks.requires_grad_(), patterns.requires_grad_()]

    def apply(self, images: Tensor, rows: Tensor) -> Tensor:
        """See `Parameters`."""
        mask, pattern = (tensor[rows].sigmoid() for tensor in self.tensors)
        return images + mask * (pattern - images)

    def norms(self) -> Tensor:
        """See `Parameters`."""
        return self.tensors[0].sigmoid().sum(dim=(1, 2, 3))

    def arrays(self, row: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `Parameters`."""
        mask, pattern = (tensor[row].detach().sigmoid().cpu().numpy() for tensor in self.tensors)
        return mask, pattern


class Differences:
    """Differences added to pixels; see the module."""

    def __init__(self, count: int, shape: tuple[int, int, int], generator: torch.Generator) -> None:
        delta = _START_DELTA * torch.randn(count, *shape, generator=generator, device=generator.device)
        self.tensors = [delta.requires_grad_()]

    def apply(self, images: Tensor, rows: Tensor) -> Tensor:
        """See `Parameters`."""
        return (images + self.tensors[0][rows]).clamp(0, 1)

    def norms(self) -> Tensor:
        """See `Parameters`."""
        return self.tensors[0].square().sum(dim=(1, 2, 3)).add(_SMALLEST_NORM**2).sqrt()

    def arrays(self, row: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `Parameters`."""
        delta = self.tensors[0][row].detach().clamp(-1, 1).cpu().numpy()
        return np.ones((1, *delta.shape[1:]), np.float32), delta


FAMILIES: dict[Family, type[Patches] | type[Differences]] = {"patch": Patches, "additive": Differences}


def largest_norm(family: Family, shape: tuple[int, int, int]) -> float:
    """Norm of a change of every pixel of an image ``(C, H, W)`` by 1."""
    return float(shape[1] * shape[2]) if family == "patch" else math.sqrt(math.prod(shape))
