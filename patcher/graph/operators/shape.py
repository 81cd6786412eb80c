# SPDX-License-Identifier: Apache-2.0
"""Operators that create, reshape, join, cut and reorder tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from patcher.errors import UnsupportedGraphError
from patcher.graph.host_values import HostArray
from patcher.graph.operators.registry import operator


@operator("Shape")
def shape_of(x: Tensor, *, start: int = 0, end: int | None = None) -> HostArray:
    """The shape, or a slice of it, as a host value."""
    return np.array(tuple(x.shape)[start:end], dtype=np.int64)


@operator("Size")
def size_of(x: Tensor) -> HostArray:
    """The number of elements, as a host value."""
    return np.array(x.numel(), dtype=np.int64)


@operator("Constant")
def constant(
    *,
    value: Tensor | None = None,
    value_float: float | None = None,
    value_floats: Sequence[float] | None = None,
    value_int: int | None = None,
    value_ints: Sequence[int] | None = None,
    device: torch.device,
    compute_type: torch.dtype,
) -> Tensor:
    """A constant."""
    if value is not None:
        return value.to(device)
    if value_int is not None or value_ints is not None:
        return torch.tensor(value_ints if value_int is None else value_int, dtype=torch.int64, device=device)
    numbers = value_floats if value_float is None else value_float
    if numbers is None:
        raise UnsupportedGraphError("a numeric value expected, found none")
    return torch.tensor(numbers, dtype=compute_type, device=device)


@operator("ConstantOfShape", host=("shape",))
def constant_of_shape(
    shape: Sequence[int], *, value: Tensor | None = None, device: torch.device, compute_type: torch.dtype
) -> Tensor:
    """A tensor of one repeated value, 0 if none is given."""
    if value is None:
        return torch.zeros(list(shape), dtype=compute_type, device=device)
    return value.to(device).reshape([1] * len(shape)).expand(list(shape)).contiguous()


@operator("Reshape", host=("shape",))
def reshape(x: Tensor, shape: Sequence[int], *, allowzero: int = 0) -> Tensor:
    """Change the shape; 0 copies the input's length unless ``allowzero``, -1 takes what is left."""
    if not allowzero:
        shape = [x.shape[axis] if length == 0 else length for axis, length in enumerate(shape)]
    return x.reshape(list(shape))


@operator("Flatten")
def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    """Two axes: the product of those before ``axis``, and of the rest."""
    axis = axis + x.dim() if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operator("Squeeze", host=("chosen",))
def squeeze(x: Tensor, chosen: Any = None, *, axes: Sequence[int] | None = None) -> Tensor:
    """Drop axes of length 1: the given ones (input from opset 13, attribute before), or all."""
    given = chosen if chosen is not None else axes
    if given is None:
        return x.squeeze()
    places = {axis % x.dim() for axis in given}
    wrong = [axis for axis in places if x.shape[axis] != 1]
    if wrong:
        raise UnsupportedGraphError(f"length 1 expected on axis {wrong[0]}, found {x.shape[wrong[0]]}")
    return x.reshape([length for axis, length in enumerate(x.shape) if axis not in places])


@operator("Unsqueeze", host=("chosen",))
def unsqueeze(x: Tensor, chosen: Any = None, *, axes: Sequence[int] | None = None) -> Tensor:
    """Insert axes of length 1; places count in the result."""
    given = chosen if chosen is not None else axes or []
    given = [given] if isinstance(given, int) else given
    rank = x.dim() + len(given)
    for axis in sorted(place % rank for place in given):
        x = x.unsqueeze(axis)
    return x


@operator("Transpose")
def transpose(x: Tensor, *, perm: Sequence[int] | None = None) -> Tensor:
    """Reorder the axes; reverse them if no order is given."""
    return x.permute(tuple(range(x.dim()))[::-1] if perm is None else tuple(perm))


@operator("Concat")
def concatenate(*inputs: Tensor, axis: int) -> Tensor:
    """Join along an axis."""
    return torch.cat(inputs, axis)


@operator("Expand", host=("shape",))
def expand(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Broadcast to a shape; either side may be the one of length 1."""
    return x.expand(torch.broadcast_shapes(x.shape, tuple(shape)))


@operator("Tile", host=("repeats",))
def tile(x: Tensor, repeats: Sequence[int]) -> Tensor:
    """Repeat along every axis."""
    return x.repeat(list(repeats))


@operator("Split", host=("lengths",))
def split(
    x: Tensor,
    lengths: Sequence[int] | None = None,
    *,
    axis: int = 0,
    split: Sequence[int] | None = None,
    num_outputs: int | None = None,
    outputs: tuple[bool, ...],
) -> tuple[Tensor, ...]:
    """Cut along an axis: into given lengths, or into equal parts, the last one shorter (opset 18)."""
    given = lengths if lengths is not None else split
    if given is None:
        parts = num_outputs or len(outputs)
        each = -(-x.shape[axis] // parts)
        given = [max(0, min(each, x.shape[axis] - index * each)) for index in range(parts)]
    return tuple(torch.split(x, list(given), axis))


@operator("Range", data_dependent=True)
def number_range(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """Numbers from ``start`` up to, not including, ``limit``."""
    first, step = start.reshape(()), delta.reshape(())
    count = max(math.ceil((limit.item() - first.item()) / step.item()), 0)
    return first + torch.arange(count, device=start.device).to(start.dtype) * step
