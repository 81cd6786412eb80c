# SPDX-License-Identifier: Apache-2.0
"""Poolings over windows and over whole images.

Padding that PyTorch's functions do not know (one-sided, wide, rounded up) is put around the input
first: with minus infinity for maxima; with zeros for sums, where the number of counted elements is
the same sum over a mask of ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - the field's usual name
from torch import Tensor

from patcher.errors import UnsupportedGraphError
from patcher.graph.operators.registry import operator
from patcher.graph.operators.windows import Windows, make_windows, pad_spatial

_MAXIMA = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGES = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@operator("MaxPool")
def max_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    storage_order: int = 0,
    strides: Sequence[int] | None = None,
    outputs: tuple[bool, ...],
) -> Tensor | tuple[Tensor, Tensor]:
    """Largest element of each window; padding never wins. Second output: its index in the flat input."""
    windows = _windows(x, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    wants_index = len(outputs) > 1 and outputs[1]
    padding = _direct_padding(windows)
    if padding is not None and not wants_index:
        return _MAXIMA[len(windows.kernel)](x, windows.kernel, windows.strides, padding, windows.dilations)
    margins = [(before, after + extra) for (before, after), extra in zip(windows.pads, windows.extra, strict=True)]
    padded = pad_spatial(x, margins, -math.inf)
    values, index = _MAXIMA[len(windows.kernel)](
        padded, windows.kernel, windows.strides, 0, windows.dilations, return_indices=True
    )
    return (values, _flat_index(index, x, padded, windows, storage_order)) if wants_index else values


@operator("AveragePool")
def average_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Mean of each window, over its elements in the input or, if asked, in the padded input."""
    windows = _windows(x, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    padding = _direct_padding(windows)
    if padding is not None and set(windows.dilations) == {1}:
        return _AVERAGES[len(windows.kernel)](
            x, windows.kernel, windows.strides, padding, False, bool(count_include_pad)
        )
    mask = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
    if count_include_pad:
        mask = pad_spatial(mask, windows.pads, 1.0)
        counted = [(0, extra) for extra in windows.extra]
    else:
        counted = [(b, a + extra) for (b, a), extra in zip(windows.pads, windows.extra, strict=True)]
    return _window_sums(x, windows) / _sums(pad_spatial(mask, counted), windows)


@operator("LpPool")
def lp_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    p: int = 2,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """``(sum |x|^p)^(1/p)`` over each window."""
    windows = _windows(x, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    return _window_sums(x.abs() ** p, windows) ** (1.0 / p)


@operator("GlobalAveragePool")
def global_average_pool(x: Tensor) -> Tensor:
    """Mean over all spatial axes, which keep length 1."""
    return x.mean(dim=tuple(range(2, x.dim())), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(x: Tensor) -> Tensor:
    """Maximum over all spatial axes, which keep length 1."""
    return x.amax(dim=tuple(range(2, x.dim())), keepdim=True)


@operator("GlobalLpPool")
def global_lp_pool(x: Tensor, *, p: int = 2) -> Tensor:
    """``(sum |x|^p)^(1/p)`` over all spatial axes, which keep length 1."""
    return (x.abs() ** p).sum(dim=tuple(range(2, x.dim())), keepdim=True) ** (1.0 / p)


def _windows(
    x: Tensor,
    kernel: Sequence[int],
    strides: Sequence[int] | None,
    dilations: Sequence[int] | None,
    pads: Sequence[int] | None,
    auto_pad: str,
    ceil_mode: int,
) -> Windows:
    if len(kernel) != x.dim() - 2 or len(kernel) not in _MAXIMA:
        raise UnsupportedGraphError(f"a kernel of 1 to 3 axes, as the input has, expected; found {len(kernel)}")
    if not x.is_floating_point():
        raise UnsupportedGraphError(f"a float tensor expected, found {x.dtype}")
    if auto_pad.startswith("SAME"):
        _check_same_padding(x.shape[2:], kernel, strides, dilations)
    return make_windows(
        x.shape[2:],
        kernel,
        strides=strides,
        dilations=dilations,
        pads=pads,
        auto_pad=auto_pad,
        ceil_mode=bool(ceil_mode),
    )


def _check_same_padding(
    size: Sequence[int], kernel: Sequence[int], strides: Sequence[int] | None, dilations: Sequence[int] | None
) -> None:
    """Refuse the cases of automatic padding in which ONNX Runtime's poolings leave the standard."""
    if dilations and max(dilations) > 1:
        raise UnsupportedGraphError("automatic padding without dilations expected; ONNX Runtime ignores them there")
    for length, span, stride in zip(size, kernel, strides or [1] * len(kernel), strict=True):
        if (-(-length // stride) - 1) * stride + span < length:
            raise UnsupportedGraphError(
                f"automatic padding of a window of {span} and steps of {stride}: ONNX Runtime crops length {length}"
            )


def _direct_padding(windows: Windows) -> tuple[int, ...] | None:
    """The padding where PyTorch's functions take it as it is, else ``None``."""
    padding = windows.symmetric
    if padding is None or any(not 0 <= p <= k // 2 for p, k in zip(padding, windows.kernel, strict=True)):
        return None
    return padding


def _window_sums(x: Tensor, windows: Windows) -> Tensor:
    margins = [(before, after + extra) for (before, after), extra in zip(windows.pads, windows.extra, strict=True)]
    return _sums(pad_spatial(x, margins), windows)


def _sums(padded: Tensor, windows: Windows) -> Tensor:
    """Sum over each window of a padded tensor (N, C, spatial), as a convolution with ones."""
    rank = len(windows.kernel)
    flat = padded.reshape(-1, 1, *padded.shape[2:])
    ones = torch.ones((1, 1, *windows.kernel), dtype=padded.dtype, device=padded.device)
    sums = _CONVOLUTIONS[rank](flat, ones, None, windows.strides, 0, windows.dilations)
    return sums.reshape(*padded.shape[:2], *sums.shape[2:])


def _flat_index(index: Tensor, x: Tensor, padded: Tensor, windows: Windows, storage_order: int) -> Tensor:
    """Turn an index within a padded image into an index within the whole unpadded tensor."""
    sizes, lengths = x.shape[2:], padded.shape[2:]
    places = []
    for length, (before, _) in zip(reversed(lengths), reversed(windows.pads), strict=True):
        places.append(index % length - before)
        index = index // length
    if storage_order == 0:
        places, order = places[::-1], list(sizes)
    else:
        order = list(sizes)[::-1]
    flat = torch.zeros_like(places[0])
    for place, size in zip(places, order, strict=True):
        flat = flat * size + place
    planes = torch.arange(x.shape[0] * x.shape[1], device=x.device) * math.prod(sizes)
    return flat + planes.reshape(*x.shape[:2], *[1] * len(sizes))
