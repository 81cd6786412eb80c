# SPDX-License-Identifier: Apache-2.0
"""Reductions along axes, cumulative sums, and the positions of extremes.

Axes are an attribute in older revisions (before opset 13 for ReduceSum, 18 for the others) and an
input in newer ones: the input is taken if given, else the attribute.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from patcher.errors import UnsupportedGraphError
from patcher.graph.operators.registry import operator

Reduction = Callable[[Tensor, list[int], bool], Tensor]


def _log_sum_exp(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.logsumexp(x, axes, keep)


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.sum(axes, keep, dtype=x.dtype)


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if x.is_floating_point():
        return x.mean(axes, keep)
    raise UnsupportedGraphError(f"ReduceMean of a float tensor expected, found {x.dtype}")


def _limit(x: Tensor, axes: list[int], keep: bool, *, largest: bool) -> Tensor:
    """Largest or smallest element; over nothing, the lowest or highest value of the type."""
    if all(x.shape[axis] for axis in axes):
        return x.amax(axes, keep) if largest else x.amin(axes, keep)
    if x.is_floating_point():
        empty: float = -math.inf if largest else math.inf
    elif x.dtype == torch.bool:
        empty = not largest
    else:
        empty = torch.iinfo(x.dtype).min if largest else torch.iinfo(x.dtype).max
    shape = [1 if axis in axes else length for axis, length in enumerate(x.shape) if keep or axis not in axes]
    return torch.full(shape, empty, dtype=x.dtype, device=x.device)


_REDUCTIONS: dict[str, Reduction] = {
    "ReduceSum": _sum,
    "ReduceMean": _mean,
    "ReduceMax": lambda x, axes, keep: _limit(x, axes, keep, largest=True),
    "ReduceMin": lambda x, axes, keep: _limit(x, axes, keep, largest=False),
    "ReduceProd": _product,
    "ReduceL1": lambda x, axes, keep: _sum(x.abs(), axes, keep),
    "ReduceL2": lambda x, axes, keep: _sum(x.square(), axes, keep).sqrt().to(x.dtype),
    "ReduceSumSquare": lambda x, axes, keep: _sum(x.square(), axes, keep),
    "ReduceLogSum": lambda x, axes, keep: _sum(x, axes, keep).log().to(x.dtype),
    "ReduceLogSumExp": _log_sum_exp,
}


def _register(name: str, reduce: Reduction) -> None:
    def kernel(
        x: Tensor,
        chosen: Any = None,
        *,
        axes: Sequence[int] | None = None,
        keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> Tensor:
        given = chosen if chosen is not None else axes
        if not given and noop_with_empty_axes:
            # An empty list means that nothing is summed; the element-wise part of the operator stays.
            return reduce(x.unsqueeze(-1), [-1], False)
        every = list(range(x.dim())) if not given else [axis % x.dim() for axis in given]
        return reduce(x, every, bool(keepdims)) if every else reduce(x.unsqueeze(-1), [-1], False)

    operator(name, host=("chosen",))(kernel)


for _name, _function in _REDUCTIONS.items():
    _register(_name, _function)


@operator("CumSum", host=("axis",))
def cumulative_sum(x: Tensor, axis: Any, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """Running sum along an axis, from the end if ``reverse``, without the element itself if ``exclusive``."""
    axis = axis[0] if isinstance(axis, list) else axis
    x = x.flip(axis) if reverse else x
    result = x.cumsum(axis, dtype=x.dtype)
    result = result - x if exclusive else result
    return result.flip(axis) if reverse else result


def _extreme(x: Tensor, axis: int, keepdims: int, select_last_index: int, largest: bool) -> Tensor:
    find = torch.argmax if largest else torch.argmin
    if not select_last_index:
        return find(x, axis, bool(keepdims))
    return x.shape[axis] - 1 - find(x.flip(axis), axis, bool(keepdims))


@operator("CumProd", host=("axis",))
def cumulative_product(x: Tensor, axis: Any, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """Running product along an axis, with the options of `cumulative_sum`."""
    axis = axis[0] if isinstance(axis, list) else axis
    x = x.flip(axis) if reverse else x
    if exclusive:
        first = torch.ones_like(x.narrow(axis, 0, 1))
        x = torch.cat([first, x.narrow(axis, 0, x.shape[axis] - 1)], axis)
    result = x.cumprod(axis, dtype=x.dtype)
    return result.flip(axis) if reverse else result


@operator("ArgMax")
def argument_of_maximum(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    """Position of the (first or last) largest element along an axis."""
    return _extreme(x, axis, keepdims, select_last_index, True)


@operator("ArgMin")
def argument_of_minimum(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    """Position of the (first or last) smallest element along an axis."""
    return _extreme(x, axis, keepdims, select_last_index, False)


@operator("TopK", host=("count",))
def top_k(x: Tensor, count: Any, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> tuple[Tensor, Tensor]:
    """The ``count`` largest (or smallest) elements along an axis and their positions; ties in order."""
    length = count[0] if isinstance(count, list) else count
    values, index = torch.sort(x, dim=axis, descending=bool(largest), stable=True)
    return values.narrow(axis, 0, length), index.narrow(axis, 0, length)
