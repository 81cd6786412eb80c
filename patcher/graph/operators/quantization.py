# SPDX-License-Identifier: Apache-2.0
"""Quantised values, with straight-through gradients.

``q = clip(round(x / scale) + zero_point)`` and back ``x = (q - zero_point) * scale``. Rounding has no
useful gradient: it is treated as the identity inside the range and as constant outside (Bengio et
al., 2013, arXiv:1308.3432). For that the quantised value is carried as floats that hold integers
wherever only operators that keep values read it (`patcher.graph.carried` decides); elsewhere it is a
true integer tensor and the gradient ends there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from onnx import TensorProto
from torch import Tensor

from patcher.errors import UnsupportedGraphError
from patcher.graph.host_values import torch_type
from patcher.graph.operators.convolution import convolution
from patcher.graph.operators.registry import operator

_TYPES = (torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32)


def _spread(parameter: Tensor, x: Tensor, axis: int, block_size: int) -> Tensor:
    """A scale or zero point per tensor, per slice of an axis, or per block, made to broadcast to ``x``."""
    if parameter.dim() == 0 or (parameter.numel() == 1 and not block_size):
        return parameter.reshape(())
    if block_size:
        return parameter.repeat_interleave(block_size, axis).narrow(axis, 0, x.shape[axis])
    shape = [1] * x.dim()
    shape[axis] = -1
    return parameter.reshape(shape)


@operator("QuantizeLinear")
def quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: int = 1,
    carried: bool,
    compute_type: torch.dtype,
) -> Tensor:
    """Quantise to the zero point's type (uint8 without one)."""
    kind = torch_type(output_dtype or TensorProto.UINT8, compute_type) if zero_point is None else zero_point.dtype
    if kind not in _TYPES:
        raise UnsupportedGraphError(f"quantisation to 8 or 16 bit integers expected, found {kind}")
    if precision not in (0, TensorProto.FLOAT):
        raise UnsupportedGraphError(f"precision {precision} is not supported")
    steps = x / _spread(scale, x, axis, block_size)
    rounded = steps + (torch.round(steps) - steps).detach()
    if zero_point is not None:
        rounded = rounded + _spread(zero_point.to(rounded.dtype), x, axis, block_size)
    limits = torch.iinfo(kind)
    result = torch.clamp(rounded, limits.min, limits.max)
    # Adding the rounding error back may leave the last bit off an integer.
    result = result + (torch.round(result) - result).detach()
    return result if carried else result.to(kind)


@operator("DequantizeLinear")
def dequantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> Tensor:
    """``(x - zero_point) * scale``."""
    values = x.to(scale.dtype)
    if zero_point is not None:
        values = values - _spread(zero_point.to(scale.dtype), x, axis, block_size)
    return values * _spread(scale, x, axis, block_size)


@operator("ConvInteger")
def integer_convolution(
    x: Tensor,
    weight: Tensor,
    x_zero_point: Tensor | None = None,
    weight_zero_point: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Convolution of integers as int32, exact as `integer_matrix_product`; padding stands for the zero point."""
    left, right = x.to(torch.float64), weight.to(torch.float64)
    if x_zero_point is not None:
        left = left - x_zero_point.to(torch.float64)
    if weight_zero_point is not None:
        right = right - _spread(weight_zero_point.to(torch.float64), weight, 0, 0)
    result = convolution(
        left,
        right,
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        kernel_shape=kernel_shape,
        pads=pads,
        strides=strides,
    )
    return result.to(torch.int32)


@operator("MatMulInteger")
def integer_matrix_product(
    a: Tensor, b: Tensor, a_zero_point: Tensor | None = None, b_zero_point: Tensor | None = None
) -> Tensor:
    """Product of integer matrices as int32; exact, because float64 holds all sums that int32 does."""
    left, right = a.to(torch.float64), b.to(torch.float64)
    if a_zero_point is not None:
        point = a_zero_point.to(torch.float64)
        left = left - (point.reshape(-1, 1) if point.dim() == 1 and point.numel() > 1 else point)
    if b_zero_point is not None:
        right = right - b_zero_point.to(torch.float64)
    return torch.matmul(left, right).to(torch.int32)
