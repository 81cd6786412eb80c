# SPDX-License-Identifier: Apache-2.0
"""Factors taken into the weights of linear operators.

With input ``x = s * x'`` and output ``y = t * y'`` (s, t positive, one number a channel), and g = 1 / t:

- Conv, ConvTranspose, Gemm, MatMul: ``W' = g W s``, ``b' = g b``
- BatchNormalization: ``gamma' = g gamma s``, ``beta' = g beta``, ``mean' = mean / s``, the variance stays
- a constant that is added: ``c' = g c``

g is 0 for a removed channel. Everything is computed in float64 and rounded once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from patcher.graph.flow import DataFlow, attribute

Factor = NDArray[np.float64]


def folded_constants(
    flow: DataFlow, node: onnx.NodeProto, entering: Factor, leaving: Factor, axis_from_end: int = 0
) -> dict[int, NDArray[np.float64]]:
    """New values for a node's constant inputs.

    Args:
        flow: The graph's data flow.
        node: A node that has weights, or a sum of a tensor and a constant.
        entering: s, ``(C_in,)``.
        leaving: g, ``(C_out,)``.
        axis_from_end: For a sum, how many axes follow the channels.

    Returns:
        float64 values by number of the input; inputs that stay are left out.
    """
    if (entering == 1).all() and (leaving == 1).all():
        return {}
    values = {
        index: value.astype(np.float64)
        for index, name in enumerate(node.input)
        if name and flow.is_constant(name) and (value := flow.value(name)) is not None
    }
    if node.op_type == "BatchNormalization":
        new = {1: leaving * values[1] * entering, 2: leaving * values[2], 3: values[3] / entering}
    elif node.op_type in ("Add", "Sub"):
        factor = leaving.reshape(-1, *[1] * axis_from_end)
        new = {index: value * factor for index, value in values.items()}
    else:
        new = {1: _weight(node, values[1], entering, leaving)}
        if 2 in values:
            new[2] = values[2] * leaving
    return {index: value for index, value in new.items() if not np.array_equal(value, values[index])}


def _weight(node: onnx.NodeProto, weight: Factor, entering: Factor, leaving: Factor) -> Factor:
    if node.op_type == "MatMul" or (node.op_type == "Gemm" and not attribute(node, "transB", 0)):
        return entering[:, None] * weight * leaving
    if node.op_type == "Gemm":
        return leaving[:, None] * weight * entering
    group = int(attribute(node, "group", 1))
    kernel = [1] * (weight.ndim - 2)
    if node.op_type == "ConvTranspose":
        # (C_in, C_out / group, ...): input channels of one group share its output channels.
        outer, inner = entering, np.repeat(leaving.reshape(group, -1), len(entering) // group, axis=0)
    else:
        # (C_out, C_in / group, ...): output channels of one group read its input channels.
        outer, inner = leaving, np.repeat(entering.reshape(group, -1), len(leaving) // group, axis=0)
    return weight * outer.reshape(-1, 1, *kernel) * inner.reshape(len(outer), -1, *kernel)


def rounded(value: NDArray[np.float64], dtype: np.dtype[Any], output_axis: int) -> NDArray[Any] | None:
    """A value in its type; ``None`` where it leaves the type's range.

    Args:
        value: The exact value.
        dtype: The type it is stored in.
        output_axis: Axis of the output channels: each must keep its own precision.

    Returns:
        The rounded value.
    """
    with np.errstate(over="ignore"):
        result: NDArray[Any] = value.astype(dtype)
    if not np.isfinite(result).all():
        return None
    lost = np.abs(result.astype(np.float64) - value)
    others = tuple(axis for axis in range(value.ndim) if axis != output_axis or value.ndim < 2)
    largest = np.abs(value).max(axis=others, keepdims=True) if value.size else np.abs(value)
    within = lost <= 2 * np.finfo(dtype).eps * largest
    return result if within.all() else None


def output_axis(node: onnx.NodeProto) -> int:
    """Axis of the output channels in a node's weight."""
    in_rows = node.op_type == "Conv" or (node.op_type == "Gemm" and bool(attribute(node, "transB", 0)))
    return 0 if in_rows else 1


def input_channels(node: onnx.NodeProto, weight: NDArray[Any]) -> int:
    """How many channels a linear operator reads."""
    if node.op_type == "Conv":
        return int(weight.shape[1]) * int(attribute(node, "group", 1))
    if node.op_type == "Gemm" and attribute(node, "transB", 0):
        return int(weight.shape[1])
    return int(weight.shape[0])
