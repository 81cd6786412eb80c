# SPDX-License-Identifier: Apache-2.0
"""Normalisations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - the field's usual name
from torch import Tensor

from patcher.errors import UnsupportedGraphError
from patcher.graph.operators.registry import operator


@operator("BatchNormalization")
def batch_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
) -> tuple[Tensor, ...]:
    """``(x - mean) / sqrt(variance + epsilon) * scale + bias`` per channel (axis 1).

    In training mode the batch's own moments are used; outputs 1 and 2 are then the running moments.
    Otherwise these outputs repeat the given moments (before opset 14 nodes may name them).
    """
    if not training_mode:
        result = F.batch_norm(x, mean, variance, scale, bias, False, 0.0, epsilon)
        return result, mean, variance, mean, variance
    axes = [axis for axis in range(x.dim()) if axis != 1]
    batch_mean, batch_variance = x.mean(axes), x.var(axes, correction=0)
    result = F.batch_norm(x, batch_mean, batch_variance, scale, bias, False, 0.0, epsilon)
    running_mean = mean * momentum + batch_mean * (1 - momentum)
    return result, running_mean, variance * momentum + batch_variance * (1 - momentum)


@operator("LayerNormalization")
def layer_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
    outputs: tuple[bool, ...],
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    """Normalise over all axes from ``axis`` on, then scale and shift."""
    axis = axis % x.dim()
    shape = x.shape[axis:]
    fitting = scale.shape == shape and (bias is None or bias.shape == shape)
    if fitting:
        result = F.layer_norm(x, shape, scale, bias, epsilon)
    else:
        result = F.layer_norm(x, shape, None, None, epsilon) * scale
        result = result if bias is None else result + bias
    if not any(outputs[1:]):
        return result
    axes = list(range(axis, x.dim()))
    mean = x.mean(axes, keepdim=True)
    return result, mean, torch.rsqrt(x.var(axes, correction=0, keepdim=True) + epsilon)


@operator("RMSNormalization")
def rms_normalization(
    x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    """``x / sqrt(mean(x^2) + epsilon) * scale`` over all axes from ``axis`` on."""
    axes = list(range(axis % x.dim(), x.dim()))
    return x * torch.rsqrt(x.square().mean(axes, keepdim=True) + epsilon) * scale


@operator("GroupNormalization")
def group_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    *,
    num_groups: int,
    epsilon: float = 1e-5,
    stash_type: int = 1,
    opset: int,
) -> Tensor:
    """Normalise over groups of channels; scale and bias are per group before opset 21, then per channel."""
    if opset >= 21:
        return F.group_norm(x, num_groups, scale, bias, epsilon)
    each = x.shape[1] // num_groups
    return F.group_norm(x, num_groups, scale.repeat_interleave(each), bias.repeat_interleave(each), epsilon)


@operator("InstanceNormalization")
def instance_normalization(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    """Normalise every channel of every image over its spatial axes."""
    axes = list(range(2, x.dim()))
    centred = x - x.mean(axes, keepdim=True)
    normal = centred * torch.rsqrt(centred.square().mean(axes, keepdim=True) + epsilon)
    shape = (-1, *[1] * len(axes))
    return normal * scale.reshape(shape) + bias.reshape(shape)


@operator("LRN")
def local_response_normalization(
    x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> Tensor:
    """``x / (bias + alpha / size * sum of squares over `size` neighbouring channels)^beta``."""
    before, after = (size - 1) // 2, size // 2
    squares = F.pad(x.square(), [0, 0] * (x.dim() - 2) + [before, after])
    sums = squares.unfold(1, size, 1).sum(-1)
    return x / (bias + alpha / size * sums) ** beta


@operator("LpNormalization")
def lp_normalization(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    """``x`` divided by its p-norm along an axis, 0 where the norm is 0."""
    if p not in (1, 2):
        raise UnsupportedGraphError(f"p of 1 or 2 expected, found {p}")
    norm = x.abs().sum(axis, keepdim=True) if p == 1 else x.square().sum(axis, keepdim=True).sqrt()
    return torch.where(norm == 0, torch.zeros_like(x), x / norm)


@operator("MeanVarianceNormalization")
def mean_variance_normalization(x: Tensor, *, axes: Sequence[int] = (0, 2, 3)) -> Tensor:
    """``(x - mean) / (sqrt(mean(x^2) - mean^2) + 1e-9)`` over the given axes."""
    axes = list(axes)
    mean = x.mean(axes, keepdim=True)
    deviation = (x.square().mean(axes, keepdim=True) - mean.square()).sqrt()
    return (x - mean) / (deviation + 1e-9)
