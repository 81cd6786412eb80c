# SPDX-License-Identifier: Apache-2.0
"""Which axis of a tensor holds the channels, followed along the data flow.

Convolutions put them at axis 1, matrix products at the last axis; a Transpose moves them (TensorFlow
exports wrap every convolution in two), a Reshape keeps them where their number stays in place, and
everything else passes on the axis of its first varying input of the same rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx

from patcher.graph.flow import DataFlow, attribute

Shapes = Mapping[str, tuple[int | None, ...]]

_AXIS_ONE = frozenset(
    {
        "Conv",
        "ConvTranspose",
        "ConvInteger",
        "QLinearConv",
        "BatchNormalization",
        "InstanceNormalization",
        "GroupNormalization",
        "LRN",
        "AveragePool",
        "MaxPool",
        "LpPool",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "GlobalLpPool",
        "DepthToSpace",
        "SpaceToDepth",
        "Gemm",
    }
)
_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "ReduceMean", "ReduceMax", "ReduceSum")


def channel_axes(flow: DataFlow, shapes: Shapes, inputs: Iterable[str], input_axis: int) -> dict[str, int]:
    """Channel axis of every tensor that depends on the image and whose shape is known.

    Args:
        flow: The graph's data flow.
        shapes: Inferred shapes.
        inputs: Names of the inputs.
        input_axis: Their channel axis.

    Returns:
        Axis by tensor name, counted from 0.
    """
    axes = dict.fromkeys(inputs, input_axis)
    for node in flow.nodes:
        for output in node.output:
            if flow.is_live(output) and shapes.get(output):
                axes[output] = _axis(node, output, axes, flow, shapes)
    return axes


def _axis(node: onnx.NodeProto, output: str, axes: Mapping[str, int], flow: DataFlow, shapes: Shapes) -> int:
    rank = len(shapes[output])
    if node.op_type in _AXIS_ONE:
        return min(1, rank - 1)
    if node.op_type == "MatMul" and any(flow.is_constant(tensor) for tensor in node.input):
        return rank - 1 if flow.is_constant(node.input[1]) else max(rank - 2, 0)
    before = [tensor for tensor in node.input if tensor in axes]
    if node.op_type == "Transpose" and before:
        order = attribute(node, "perm", list(reversed(range(rank))))
        return list(order).index(axes[before[0]])
    if node.op_type in _RESHAPES and before:
        return _reshaped_axis(shapes[before[0]], axes[before[0]], shapes[output])
    same_rank = [tensor for tensor in before if len(shapes[tensor]) == rank]
    # In a product or sum of unequal shapes the broadcast operand may have lost its channels.
    return axes[same_rank[0]] if same_rank else _usual_axis(rank)


def _reshaped_axis(before: tuple[int | None, ...], axis: int, after: tuple[int | None, ...]) -> int:
    rank, channels = len(after), before[axis]
    if rank <= 2:
        return rank - 1
    from_end = axis - len(before)
    for candidate in (axis, rank + from_end, 1, rank - 1):
        if 0 < candidate < rank and channels is not None and after[candidate] == channels:
            return candidate
    return _usual_axis(rank)


def _usual_axis(rank: int) -> int:
    """Images have channels at axis 1, tokens ``(N, T, C)`` and vectors ``(N, C)`` at the last."""
    return 1 if rank >= 4 else rank - 1
