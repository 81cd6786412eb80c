# SPDX-License-Identifier: Apache-2.0
"""Reading and writing by index. Negative indices count from the end, as everywhere in ONNX."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from patcher.errors import UnsupportedGraphError
from patcher.graph.operators.registry import operator

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _from_start(index: Tensor, length: int) -> Tensor:
    """Indices counted from the start, as int64."""
    index = index.to(torch.int64)
    return torch.where(index < 0, index + length, index)


@operator("Gather")
def gather(x: Tensor, index: Tensor, *, axis: int = 0) -> Tensor:
    """Slices of ``x`` along an axis; the index's axes take the axis' place."""
    axis = axis % x.dim()
    places = _from_start(index, x.shape[axis])
    picked = x.index_select(axis, places.reshape(-1))
    return picked.reshape([*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]])


@operator("GatherElements")
def gather_elements(x: Tensor, index: Tensor, *, axis: int = 0) -> Tensor:
    """For every place of the index, the element of ``x`` there with the axis' coordinate replaced."""
    return torch.gather(x, axis, _from_start(index, x.shape[axis]))


@operator("GatherND")
def gather_nd(x: Tensor, index: Tensor, *, batch_dims: int = 0) -> Tensor:
    """Slices of ``x`` addressed by the last axis of the index; the first ``batch_dims`` axes are shared."""
    depth = index.shape[-1]
    batch = x.shape[:batch_dims]
    flat = x.reshape(math.prod(batch), *x.shape[batch_dims:])
    places = index.reshape(flat.shape[0], -1, depth)
    columns = [_from_start(places[..., k], x.shape[batch_dims + k]) for k in range(depth)]
    rows = torch.arange(flat.shape[0], device=x.device).unsqueeze(1).expand(places.shape[:2])
    picked = flat[(rows, *columns)]
    return picked.reshape([*index.shape[:-1], *x.shape[batch_dims + depth :]])


@operator("ScatterElements", "Scatter")
def scatter_elements(x: Tensor, index: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none") -> Tensor:
    """A copy of ``x`` with elements replaced by, or combined with, the updates."""
    places = _from_start(index, x.shape[axis])
    if reduction == "none":
        return x.scatter(axis, places, updates)
    return x.scatter_reduce(axis, places, updates, _reduction(reduction))


@operator("ScatterND")
def scatter_nd(x: Tensor, index: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    """A copy of ``x`` with slices, addressed by the last axis of the index, replaced or combined."""
    depth = index.shape[-1]
    columns = [_from_start(index[..., k], x.shape[k]) for k in range(depth)]
    flat = torch.zeros(index.shape[:-1], dtype=torch.int64, device=x.device)
    for column, length in zip(columns, x.shape[:depth], strict=True):
        flat = flat * length + column
    rows = x.reshape(math.prod(x.shape[:depth]), -1)
    places = flat.reshape(-1, 1).expand(-1, rows.shape[1])
    values = updates.reshape(-1, rows.shape[1])
    if reduction == "none":
        return rows.scatter(0, places, values).reshape(x.shape)
    return rows.scatter_reduce(0, places, values, _reduction(reduction)).reshape(x.shape)


def _reduction(name: str) -> str:
    if name not in _REDUCTIONS:
        raise UnsupportedGraphError(f"reduction {name!r} is not known")
    return _REDUCTIONS[name]


@operator("Slice", host=("starts", "ends", "axes", "steps"))
def cut(
    x: Tensor,
    starts: Sequence[int],
    ends: Sequence[int],
    axes: Sequence[int] | None = None,
    steps: Sequence[int] | None = None,
) -> Tensor:
    """Slices with steps; places beyond the ends are clamped."""
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        places = _places(start, end, step, x.shape[axis])
        if step == 1:
            x = x.narrow(axis, places.start, len(places)) if len(places) else x.narrow(axis, 0, 0)
        else:
            x = x.index_select(axis, torch.tensor(list(places), dtype=torch.int64, device=x.device))
    return x


def _places(start: int, end: int, step: int, length: int) -> range:
    """The places of a slice: negative bounds count from the end once, then bounds are clamped."""
    start = start + length if start < 0 else start
    end = end + length if end < 0 else end
    if step > 0:
        return range(min(max(start, 0), length), min(max(end, 0), length), step)
    return range(min(max(start, 0), length - 1), min(max(end, -1), length - 1), step)


@operator("NonZero", data_dependent=True)
def non_zero(x: Tensor) -> Tensor:
    """Coordinates of the elements that are not 0, one column each."""
    return torch.nonzero(x.reshape(1) if x.dim() == 0 else x).t()


@operator("Compress", data_dependent=True)
def compress(x: Tensor, condition: Tensor, *, axis: int | None = None) -> Tensor:
    """Slices along an axis (or elements of the flat tensor) for which the condition holds."""
    source = x.reshape(-1) if axis is None else x
    axis = 0 if axis is None else axis
    return source.index_select(axis, torch.nonzero(condition).reshape(-1))


@operator("OneHot", host=("depth",))
def one_hot(index: Tensor, depth: Any, values: Tensor, *, axis: int = -1) -> Tensor:
    """A new axis with the second value at the index and the first elsewhere; none where out of range."""
    count = int(depth[0] if isinstance(depth, list) else depth)
    places = index.to(torch.int64)
    places = torch.where(places < 0, places + count, places).unsqueeze(-1)
    hot = places == torch.arange(count, device=index.device)
    return torch.where(hot, values[1], values[0]).movedim(-1, axis)


@operator("Trilu", host=("diagonal",))
def triangle(x: Tensor, diagonal: Any = None, *, upper: int = 1) -> Tensor:
    """The upper or lower triangle of the last two axes, 0 elsewhere."""
    diagonal = diagonal[0] if isinstance(diagonal, list) else diagonal or 0
    return torch.triu(x, diagonal) if upper else torch.tril(x, diagonal)


@operator("ReverseSequence", host=("lengths",))
def reverse_sequence(x: Tensor, lengths: Sequence[int], *, batch_axis: int = 1, time_axis: int = 0) -> Tensor:
    """Reverse the first ``lengths[b]`` steps of every batch entry."""
    moved = x.movedim((batch_axis, time_axis), (0, 1))
    rows = [
        torch.cat([row[:length].flip(0), row[length:]]) for row, length in zip(moved.unbind(0), lengths, strict=True)
    ]
    return torch.stack(rows).movedim((0, 1), (batch_axis, time_axis))
