# SPDX-License-Identifier: Apache-2.0
"""How each operator hands on the labels of its channels; see `patcher.graph.scales`.

A rule returns whether the node can live with scaled inputs. One that does not labels nothing, and the caller
fixes the factors of what the node reads at 1. A tensor without labels is stored as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from patcher.graph.flow import DataFlow, attribute
from patcher.graph.scale_labels import UNSCALED, Channels, Join, ScaleFlow
from patcher.model.subgraphs import subgraphs

Shapes = Mapping[str, tuple[int | None, ...]]

_LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization")
_CHANNELWISE = (
    "Relu",
    "LeakyRelu",
    "Identity",
    "Dropout",
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "GlobalMaxPool",
)


@dataclass(frozen=True)
class Step:
    """One node's part."""

    found: ScaleFlow
    flow: DataFlow
    shapes: Shapes
    number: int
    node: onnx.NodeProto

    def label(self, passing: bool) -> bool:
        """Label the node's outputs; False where its inputs must stay as they are."""
        node = self.node
        if passing:
            return self._pass(self._live_input())
        if node.domain not in ("", "ai.onnx") or any(subgraphs(node)):
            return False
        if node.op_type in _LINEAR:
            return self._linear()
        if node.op_type in _CHANNELWISE:
            return self._pass(node.input[0])
        rule = _RULES.get(node.op_type)
        return rule(self) if rule else False

    def channels(self, tensor: str) -> Channels | None:
        """The labels of a tensor, if it has any."""
        return self.found.channels.get(tensor)

    def shape(self, tensor: str) -> tuple[int | None, ...]:
        """The shape of a tensor, empty where it is not known."""
        return self.shapes.get(tensor, ())

    def set(self, channels: Channels, output: int = 0) -> bool:
        """Label an output of the node."""
        self.found.channels[self.node.output[output]] = channels
        return True

    def _live_input(self) -> str:
        return str(next(tensor for tensor in self.node.input if self.flow.is_live(tensor)))

    def _pass(self, tensor: str, axis: int | None = None) -> bool:
        found = self.channels(tensor)
        return found is not None and self.set(Channels(found.axis if axis is None else axis, found.labels))

    def _linear(self) -> bool:
        """New labels for an operator whose weights are constants that can be read."""
        node, flow = self.node, self.flow
        if not flow.is_live(node.input[0]) or any(map(flow.is_live, node.input[1:])):
            return False
        weight = flow.value(node.input[1])
        readable = all(flow.value(tensor) is not None for tensor in node.input[1:] if tensor)
        if weight is None or not readable or len(node.output) > 1 or attribute(node, "transA", 0):
            return False
        found = self.channels(node.input[0])
        rank = len(self.shape(node.input[0])) or 4
        axis = rank - 1 if node.op_type == "MatMul" else 1
        if found is not None and found.axis != axis:
            return False
        if node.op_type == "MatMul" and (weight.ndim != 2 or not self.shape(node.input[0])):
            return False
        self.found.linear.add(self.number)
        return self.set(Channels(axis, self.found.new(_output_channels(node, weight))))

    def reshape(self) -> bool:
        """A reshape that keeps the axes up to the channels, or one that lays a picture out channel by channel."""
        source = self.node.input[0]
        found, before, after = self.channels(source), self.shape(source), self.shape(self.node.output[0])
        if found is None or found.axis != 1 or len(after) < 2 or None in before[1:] or None in after[1:]:
            return False
        spatial = math.prod(length or 0 for length in before[2:])
        if after[1] == before[1] and math.prod(length or 0 for length in after[2:]) == spatial:
            return self._pass(source)
        if len(after) == 2 and after[1] == (before[1] or 0) * spatial:
            return self.set(Channels(1, np.repeat(found.labels, spatial)))
        return False

    def reduce(self) -> bool:
        """A mean or maximum over other axes than the batch and the channels."""
        source = self.node.input[0]
        found, rank = self.channels(source), len(self.shape(source))
        axes = attribute(self.node, "axes")
        if axes is None and len(self.node.input) > 1 and self.node.input[1]:
            value = self.flow.value(self.node.input[1])
            axes = None if value is None else value.reshape(-1).tolist()
        if found is None or axes is None or not rank:
            return False
        reduced = {int(axis) % rank for axis in axes}
        if reduced & {0, found.axis}:
            return False
        kept = bool(attribute(self.node, "keepdims", 1))
        return self._pass(source, found.axis if kept else found.axis - sum(axis < found.axis for axis in reduced))

    def pad(self) -> bool:
        """Padding with zeros beside the channels."""
        node = self.node
        found, rank = self.channels(node.input[0]), len(self.shape(node.input[0]))
        if len(node.input) > 3 and node.input[3]:
            return False
        value = self.flow.value(node.input[1]) if len(node.input) > 1 else np.asarray(attribute(node, "pads", []))
        filled = len(node.input) > 2 and bool(node.input[2]) and self.flow.scalar(node.input[2]) != 0
        if found is None or value is None or value.size != 2 * rank or filled or attribute(node, "value", 0.0):
            return False
        beside = value.reshape(2, rank)[:, [0, found.axis]]
        return not beside.any() and self._pass(node.input[0])

    def transpose(self) -> bool:
        """The channels move with their axis."""
        source = self.node.input[0]
        found = self.channels(source)
        rank = len(self.shape(source))
        order = list(attribute(self.node, "perm", list(reversed(range(rank)))))
        return found is not None and found.axis in order and self._pass(source, order.index(found.axis))

    def concat(self) -> bool:
        """Labels strung together; parts without labels are stored as they are."""
        rank = len(self.shape(self.node.output[0]))
        known = [self.channels(tensor) for tensor in self.node.input]
        axes = {part.axis for part in known if part is not None}
        if not rank or len(axes) != 1 or int(attribute(self.node, "axis", 1)) % rank not in axes:
            return False
        axis = axes.pop()
        parts = []
        for tensor, part in zip(self.node.input, known, strict=True):
            length = self.shape(tensor)[axis] if part is None and len(self.shape(tensor)) > axis else 0
            if part is None and not length:
                return False
            parts.append(part.labels if part is not None else np.full(length or 0, UNSCALED, np.int64))
        return self.set(Channels(axis, np.concatenate(parts)))

    def split(self) -> bool:
        """Labels cut where the channels are."""
        source = self.node.input[0]
        found, rank = self.channels(source), len(self.shape(source))
        if found is None or not rank or int(attribute(self.node, "axis", 0)) % rank != found.axis:
            return False
        lengths = [self.shape(tensor)[found.axis] if self.shape(tensor) else None for tensor in self.node.output]
        if None in lengths or sum(length or 0 for length in lengths) != len(found.labels):
            return False
        start = 0
        for index, length in enumerate(lengths):
            self.set(Channels(found.axis, found.labels[start : start + (length or 0)]), index)
            start += length or 0
        return True

    def resize(self) -> bool:
        """Interpolation inside each channel."""
        source, rank = self.node.input[0], len(self.shape(self.node.input[0]))
        same = rank == 4 and self.shape(source)[:2] == self.shape(self.node.output[0])[:2]
        cropping = attribute(self.node, "coordinate_transformation_mode", b"") == b"tf_crop_and_resize"
        found = self.channels(source)
        return same and not cropping and found is not None and found.axis == 1 and self._pass(source)

    def maximum(self) -> bool:
        """``max(x, 0)`` is a Relu in other words."""
        zero = [tensor for tensor in self.node.input if self.flow.scalar(tensor) == 0]
        return len(self.node.input) == 2 and len(zero) == 1 and self._pass(self._live_input())

    def multiply(self) -> bool:
        """A product with a constant, or with a gate that is stored as it is."""
        node = self.node
        live = [tensor for tensor in node.input if self.flow.is_live(tensor)]
        same = [tensor for tensor in live if self.shape(tensor) == self.shape(node.output[0]) != ()]
        if not same or (node.op_type == "Div" and same[0] != node.input[0]):
            return False
        for tensor in live:
            if tensor != same[0] or len(live) != len(set(live)):
                self.found.fix(tensor, f"{node.op_type} multiplies with it")
        return self._pass(same[0]) or len(live) > 1

    def join(self) -> bool:
        """A sum of tensors of one shape, or of a labelled one and a constant."""
        node, output = self.node, self.shape(self.node.output[0])
        live = [tensor for tensor in node.input if self.flow.is_live(tensor)]
        known = [part for tensor in live if (part := self.channels(tensor)) is not None]
        axis = known[0].axis if known else 0
        if not known or any(self.shape(tensor) != output for tensor in live) or axis >= len(output):
            return False
        length = output[axis]
        if length is None or any(part.axis != axis or len(part.labels) != length for part in known):
            return False
        if len(live) < len(node.input):
            if len(node.input) != 2 or self.flow.value(next(t for t in node.input if t not in live)) is None:
                return False
            self.found.offsets.add(self.number)
            return self._pass(live[0])
        labels, unscaled = self.found.new(length), np.full(length, UNSCALED, np.int64)
        for operand, tensor in enumerate(live):
            part = self.channels(tensor)
            self.found.joins.append(Join(self.number, operand, unscaled if part is None else part.labels, labels))
        return self.set(Channels(axis, labels))


_RULES: dict[str, Callable[[Step], bool]] = {
    "Reshape": Step.reshape,
    "Flatten": Step.reshape,
    "Squeeze": Step.reshape,
    "Unsqueeze": Step.reshape,
    "ReduceMean": Step.reduce,
    "ReduceMax": Step.reduce,
    "Pad": Step.pad,
    "Transpose": Step.transpose,
    "Concat": Step.concat,
    "Split": Step.split,
    "Resize": Step.resize,
    "Max": Step.maximum,
    "Mul": Step.multiply,
    "Div": Step.multiply,
    "Add": Step.join,
    "Sub": Step.join,
    "Sum": Step.join,
    # These read a shape and no value.
    "Shape": lambda step: True,
    "Size": lambda step: True,
}


def _output_channels(node: onnx.NodeProto, weight: NDArray[Any]) -> int:
    if node.op_type == "ConvTranspose":
        return int(weight.shape[1]) * int(attribute(node, "group", 1))
    if node.op_type == "Gemm":
        return int(weight.shape[0 if attribute(node, "transB", 0) else 1])
    return int(weight.shape[-1] if node.op_type == "MatMul" else weight.shape[0])
