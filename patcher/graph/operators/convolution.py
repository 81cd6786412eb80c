# SPDX-License-Identifier: Apache-2.0
"""Convolutions of one to three spatial axes, grouped, dilated and transposed."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F  # noqa: N812 - the field's usual name
from torch import Tensor

from patcher.errors import UnsupportedGraphError
from patcher.graph.operators.registry import operator
from patcher.graph.operators.windows import make_windows, pad_spatial

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@operator("Conv")
def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Convolution of ``x`` (N, C, spatial) with ``weight`` (M, C / group, kernel)."""
    kernel = _check_kernel(weight, kernel_shape)
    windows = make_windows(x.shape[2:], kernel, strides=strides, dilations=dilations, pads=pads, auto_pad=auto_pad)
    padding = windows.symmetric
    if padding is None or min(padding) < 0:
        x, padding = pad_spatial(x, windows.pads), (0,) * len(kernel)
    function = _CONVOLUTIONS[len(kernel)]
    return function(x, weight, bias, windows.strides, padding, windows.dilations, group)


@operator("ConvTranspose")
def transposed_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    output_padding: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Transposed convolution of ``x`` (N, C, spatial) with ``weight`` (C, M / group, kernel).

    The whole result is computed, then cropped by ``pads`` and extended by ``output_padding``.
    """
    kernel = _check_kernel(weight, kernel_shape)
    rank = len(kernel)
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    output_padding = output_padding or [0] * rank
    full = _TRANSPOSED[rank](x, weight, None, strides, 0, 0, group, dilations)
    if output_shape is None and auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        output_shape = [length * stride for length, stride in zip(x.shape[2:], strides, strict=True)]
        natural = [length + extra for length, extra in zip(full.shape[2:], output_padding, strict=True)]
        if any(target > length for target, length in zip(output_shape, natural, strict=True)):
            raise UnsupportedGraphError("automatic padding with a kernel of at least the stride's length expected")
    if output_shape is not None:
        crops = _crops(full.shape[2:], output_padding, output_shape[-rank:], auto_pad)
    elif auto_pad in ("NOTSET", "VALID"):
        flat = list(pads) if pads and auto_pad == "NOTSET" else [0] * (2 * rank)
        crops = list(zip(flat[:rank], flat[rank:], strict=True))
    else:
        raise UnsupportedGraphError(f"auto_pad {auto_pad!r} is not known")
    margins = [(-before, extra - after) for (before, after), extra in zip(crops, output_padding, strict=True)]
    result = pad_spatial(full, margins)
    return result if bias is None else result + bias.reshape(-1, *[1] * rank)


def _check_kernel(weight: Tensor, kernel_shape: Sequence[int] | None) -> tuple[int, ...]:
    kernel = tuple(weight.shape[2:])
    if kernel_shape is not None and tuple(kernel_shape) != kernel:
        raise UnsupportedGraphError(f"kernel_shape {list(kernel)} of the weight expected, found {list(kernel_shape)}")
    if len(kernel) not in _CONVOLUTIONS:
        raise UnsupportedGraphError(f"1 to 3 spatial axes expected, found {len(kernel)}")
    return kernel


def _crops(
    full: Sequence[int], output_padding: Sequence[int], wanted: Sequence[int], auto_pad: str
) -> list[tuple[int, int]]:
    """How much to crop on each side for a given output size; the odd element as ``auto_pad`` says."""
    crops = []
    for length, extra, target in zip(full, output_padding, wanted, strict=True):
        total = length + extra - target
        if total < 0:
            crops.append((0, total))  # the result is extended at the end
            continue
        small, large = total // 2, total - total // 2
        crops.append((small, large) if auto_pad == "SAME_UPPER" else (large, small))
    return crops
