# SPDX-License-Identifier: Apache-2.0
"""Activation functions.

Constant bounds of `Clip` are bound as numbers: a tensor bound would cost memory, and halve the
gradient where value and bound are equal.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the field's usual name
from torch import Tensor

from patcher.errors import UnsupportedGraphError
from patcher.graph.operators.registry import operator


@operator("Relu")
def relu(x: Tensor) -> Tensor:
    """``max(x, 0)``."""
    return torch.relu(x)


@operator("Sigmoid")
def sigmoid(x: Tensor) -> Tensor:
    """``1 / (1 + exp(-x))``."""
    return torch.sigmoid(x)


@operator("Tanh")
def tanh(x: Tensor) -> Tensor:
    """Hyperbolic tangent."""
    return torch.tanh(x)


def _number(bound: Any) -> Any:
    """A bound of one element as a number."""
    while isinstance(bound, list):
        if len(bound) != 1:
            raise UnsupportedGraphError(f"a scalar bound expected, found {len(bound)} elements")
        bound = bound[0]
    return bound


@operator("Clip", host_if_constant=("lower", "upper"))
def clip(x: Tensor, lower: Any = None, upper: Any = None) -> Tensor:
    """``min(max(x, lower), upper)``; the upper bound wins where the bounds cross."""
    lower, upper = _number(lower), _number(upper)
    if isinstance(lower, Tensor) or isinstance(upper, Tensor):
        if lower is not None:
            x = torch.maximum(x, torch.as_tensor(lower, dtype=x.dtype, device=x.device))
        return x if upper is None else torch.minimum(x, torch.as_tensor(upper, dtype=x.dtype, device=x.device))
    if lower is None and upper is None:
        return x
    if lower is not None and upper is not None and lower < upper and x.is_floating_point():
        # The same values as clamp; one pass less in the backward direction.
        return F.hardtanh(x, lower, upper)
    return torch.clamp(x, lower, upper)


@operator("LeakyRelu")
def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    """``x`` where positive, else ``alpha * x``."""
    return F.leaky_relu(x, alpha)


@operator("PRelu")
def parametric_relu(x: Tensor, slope: Tensor) -> Tensor:
    """``x`` where not negative, else ``slope * x``; the slope broadcasts to ``x``."""
    return torch.where(x >= 0, x, x * slope)


@operator("Elu")
def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """``x`` where positive, else ``alpha * (exp(x) - 1)``."""
    return F.elu(x, alpha)


@operator("Celu")
def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """``max(x, 0) + min(alpha * (exp(x / alpha) - 1), 0)``."""
    return F.celu(x, alpha)


@operator("Selu")
def selu(x: Tensor, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875) -> Tensor:
    """``gamma * elu(x, alpha)``."""
    return gamma * F.elu(x, alpha)


@operator("Gelu")
def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    """``x * Phi(x)``, exact or by the tanh approximation."""
    return F.gelu(x, approximate=approximate)


@operator("HardSigmoid")
def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    """``clip(alpha * x + beta, 0, 1)``."""
    return torch.clamp(alpha * x + beta, 0.0, 1.0)


@operator("HardSwish")
def hard_swish(x: Tensor) -> Tensor:
    """``x * clip(x / 6 + 0.5, 0, 1)``."""
    return F.hardswish(x)


@operator("Swish")
def swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """``x * sigmoid(alpha * x)``."""
    return F.silu(x) if alpha == 1.0 else x * torch.sigmoid(alpha * x)


@operator("Mish")
def mish(x: Tensor) -> Tensor:
    """``x * tanh(softplus(x))``."""
    return F.mish(x)


@operator("Softplus")
def softplus(x: Tensor) -> Tensor:
    """``log(1 + exp(x))`` without overflow."""
    return torch.logaddexp(x, torch.zeros((), dtype=x.dtype, device=x.device))


@operator("Softsign")
def softsign(x: Tensor) -> Tensor:
    """``x / (1 + |x|)``."""
    return F.softsign(x)


@operator("ThresholdedRelu")
def thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """``x`` where above ``alpha``, else 0."""
    return torch.where(x > alpha, x, torch.zeros((), dtype=x.dtype, device=x.device))


@operator("Shrink")
def shrink(x: Tensor, *, lambd: float = 0.5, bias: float = 0.0) -> Tensor:
    """``x + bias`` below ``-lambd``, ``x - bias`` above ``lambd``, 0 between."""
    zero = torch.zeros((), dtype=x.dtype, device=x.device)
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, zero)).to(x.dtype)


def _softmax_axis(x: Tensor, axis: int | None, opset: int) -> tuple[Tensor, int]:
    """The tensor and axis to normalise over: before opset 13 everything from ``axis`` on, flattened."""
    if opset >= 13:
        return x, -1 if axis is None else axis
    axis = 1 if axis is None else axis
    axis = axis + x.dim() if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), -1), 1


@operator("Softmax")
def softmax(x: Tensor, *, axis: int | None = None, opset: int) -> Tensor:
    """``exp(x) / sum(exp(x))`` along an axis."""
    flat, axis = _softmax_axis(x, axis, opset)
    return torch.softmax(flat, axis).reshape(x.shape)


@operator("LogSoftmax")
def log_softmax(x: Tensor, *, axis: int | None = None, opset: int) -> Tensor:
    """``log(softmax(x))`` along an axis."""
    flat, axis = _softmax_axis(x, axis, opset)
    return torch.log_softmax(flat, axis).reshape(x.shape)


@operator("Hardmax")
def hardmax(x: Tensor, *, axis: int | None = None, opset: int) -> Tensor:
    """1 at the first largest element along an axis, else 0."""
    flat, axis = _softmax_axis(x, axis, opset)
    first = flat.argmax(axis, keepdim=True)
    return torch.zeros_like(flat).scatter(axis, first, 1.0).reshape(x.shape)


@operator("Dropout")
def dropout(
    x: Tensor,
    share: Any = None,
    training_mode: Any = None,
    *,
    ratio: float = 0.5,
    seed: int = 0,
    outputs: tuple[bool, ...],
) -> tuple[Tensor, ...]:
    """The identity; a Dropout in training mode is refused."""
    if training_mode is not None and bool(torch.as_tensor(training_mode).any()):
        raise UnsupportedGraphError("Dropout in training mode is random; export the model in evaluation mode")
    return x, torch.ones_like(x, dtype=torch.bool)
