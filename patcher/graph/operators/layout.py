# SPDX-License-Identifier: Apache-2.0
"""Padding, and moving elements between channels and places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's usual name
from torch import Tensor

from patcher.errors import UnsupportedGraphError
from patcher.graph.host_values import torch_type
from patcher.graph.operators.registry import operator

_MODES = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}


@operator("Pad", host=("pads", "value", "axes"))
def pad(x: Tensor, pads: Sequence[int], value: Any = None, axes: Any = None, *, mode: str = "constant") -> Tensor:
    """Pad with a constant or with elements of the input; negative lengths crop."""
    axes = list(range(x.dim())) if axes is None else [axis % x.dim() for axis in axes]
    before, after = [0] * x.dim(), [0] * x.dim()
    for place, axis in enumerate(axes):
        before[axis], after[axis] = pads[place], pads[place + len(axes)]
    if mode == "constant":
        value = value[0] if isinstance(value, list) else value
        flat = [length for pair in zip(reversed(before), reversed(after), strict=True) for length in pair]
        return F.pad(x, flat, value=0 if value is None else value)
    if mode not in _MODES:
        raise UnsupportedGraphError(f"mode {mode!r} is not known")
    for axis in range(x.dim()):
        if before[axis] or after[axis]:
            x = x.index_select(axis, _places(x.shape[axis], before[axis], after[axis], mode).to(x.device))
    return x


def _places(length: int, before: int, after: int, mode: str) -> Tensor:
    """Which element stands at each place of a padded axis."""
    places = np.arange(length)[max(0, -before) : length - max(0, -after)]
    widths = (max(0, before), max(0, after))
    return torch.from_numpy(np.pad(places, widths, mode=mode))  # type: ignore[call-overload]


@operator("DepthToSpace")
def depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """(N, C, H, W) to (N, C / b^2, H b, W b); the block's place is the outer (DCR) or inner (CRD) part of C."""
    batch, channels, height, width = x.shape
    b, depth = blocksize, channels // blocksize**2
    if mode == "DCR":
        parts = x.reshape(batch, b, b, depth, height, width).permute(0, 3, 4, 1, 5, 2)
    else:
        parts = x.reshape(batch, depth, b, b, height, width).permute(0, 1, 4, 2, 5, 3)
    return parts.reshape(batch, depth, height * b, width * b)


@operator("SpaceToDepth")
def space_to_depth(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """(N, C, H, W) to (N, C b^2, H / b, W / b); the block's place becomes the outer (DCR) or inner part of C."""
    batch, channels, height, width = x.shape
    b = blocksize
    parts = x.reshape(batch, channels, height // b, b, width // b, b)
    order = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
    return parts.permute(*order).reshape(batch, channels * b * b, height // b, width // b)


@operator("EyeLike")
def eye_like(x: Tensor, *, dtype: int | None = None, k: int = 0, compute_type: torch.dtype) -> Tensor:
    """Ones on the ``k``-th diagonal of a matrix of the same shape."""
    rows = torch.arange(x.shape[0], device=x.device).unsqueeze(1)
    columns = torch.arange(x.shape[1], device=x.device)
    return (columns - rows == k).to(x.dtype if dtype is None else torch_type(dtype, compute_type))
