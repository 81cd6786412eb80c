# SPDX-License-Identifier: Apache-2.0
"""What NumPy arrays and torch tensors do not share: where a formula needs it, it asks here.

A trigger's formula is written once. The search runs it on tensors, with gradients; the gate runs it on arrays,
where torch is not even imported.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any  # a NumPy array or a torch tensor


def namespace(array: Array) -> Any:
    """The module of `array`'s functions: ``numpy`` or ``torch``."""
    if isinstance(array, np.ndarray):
        return np
    import torch

    return torch


def like(constant: Any, array: Array) -> Array:
    """A NumPy array or number of the same kind, dtype and device as `array`."""
    if isinstance(array, np.ndarray):
        return np.asarray(constant, array.dtype)
    import torch

    return torch.as_tensor(np.asarray(constant), dtype=array.dtype, device=array.device)


def sigmoid(array: Array) -> Array:
    """The logistic function."""
    return 1 / (1 + namespace(array).exp(-array))


def root_mean_square(change: Array, axes: tuple[int, ...]) -> Array:
    """Over `axes`; differentiable at 0."""
    return ((change * change).mean(axes) + 1e-16) ** 0.5


def along(places: Array, images: Array) -> Array:
    """NumPy integers as an index of `images`."""
    if isinstance(images, np.ndarray):
        return places
    import torch

    return torch.from_numpy(places).to(images.device)


def integers(array: Array) -> Array:
    """Whole numbers as an index."""
    return array.astype(np.int64) if isinstance(array, np.ndarray) else array.long()
