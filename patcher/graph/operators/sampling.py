# SPDX-License-Identifier: Apache-2.0
"""Sampling at computed places, and the inverses of window operators."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the field's usual name
from torch import Tensor

from patcher.errors import UnsupportedGraphError
from patcher.graph.operators.registry import operator

# Opset 16 says bilinear and bicubic where opset 20 says linear and cubic.
_MODES = {"linear": "bilinear", "bilinear": "bilinear", "nearest": "nearest", "cubic": "bicubic", "bicubic": "bicubic"}


@operator("GridSample")
def grid_sample(
    x: Tensor, grid: Tensor, *, align_corners: int = 0, mode: str = "linear", padding_mode: str = "zeros"
) -> Tensor:
    """Values of ``x`` (N, C, spatial) at the places of ``grid`` (N, spatial, rank), which run from -1 to 1."""
    if mode not in _MODES:
        raise UnsupportedGraphError(f"mode {mode!r} is not known")
    return F.grid_sample(x, grid, _MODES[mode], padding_mode, bool(align_corners))


@operator("MaxUnpool", host=("output_shape",))
def max_unpool(
    x: Tensor,
    index: Tensor,
    output_shape: Sequence[int] | None = None,
    *,
    kernel_shape: Sequence[int],
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Zeros with the elements of ``x`` at given places of the flat result."""
    rank = len(kernel_shape)
    strides, pads = strides or [1] * rank, pads or [0] * (2 * rank)
    natural = [
        (length - 1) * stride + kernel - pads[axis] - pads[axis + rank]
        for axis, (length, stride, kernel) in enumerate(zip(x.shape[2:], strides, kernel_shape, strict=True))
    ]
    inner = [*x.shape[:2], *natural]
    if output_shape is not None and list(output_shape) != inner:
        # The places count in the natural size; a larger result keeps their coordinates.
        wanted = list(output_shape)
        flat = torch.zeros(math.prod(wanted), dtype=x.dtype, device=x.device)
        return flat.scatter(0, _replace_strides(index, inner, wanted).reshape(-1), x.reshape(-1)).reshape(wanted)
    flat = torch.zeros(math.prod(inner), dtype=x.dtype, device=x.device)
    return flat.scatter(0, index.reshape(-1), x.reshape(-1)).reshape(inner)


def _replace_strides(index: Tensor, source: Sequence[int], target: Sequence[int]) -> Tensor:
    """Flat places in one shape as flat places in another, with the same coordinates."""
    result, step = torch.zeros_like(index), 1
    for before, after in zip(reversed(source), reversed(target), strict=True):
        result = result + index % before * step
        index, step = index // before, step * after
    return result


@operator("Col2Im", host=("image_shape", "block_shape"))
def columns_to_image(
    x: Tensor,
    image_shape: Any,
    block_shape: Any,
    *,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Sum overlapping blocks (N, C * block, L) into images (N, C, H, W)."""
    rank = len(image_shape)
    pads = list(pads or [0] * (2 * rank))
    if rank != 2 or pads[:rank] != pads[rank:]:
        raise UnsupportedGraphError("two spatial axes with equal padding on both sides expected")
    dilations, strides = tuple(dilations or (1, 1)), tuple(strides or (1, 1))
    return F.fold(x, tuple(image_shape), tuple(block_shape), dilations, tuple(pads[:rank]), strides)
