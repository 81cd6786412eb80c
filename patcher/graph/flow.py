# SPDX-License-Identifier: Apache-2.0
"""Who makes a tensor, who reads it, and what is constant: the questions asked of a graph by data flow."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx

from patcher.model.subgraphs import captured

STANDARD_DOMAINS = ("", "ai.onnx")
# Operators that hand a value on unchanged but for its type.
_SAME_VALUE = ("Identity", "Cast", "CastLike", "Dropout")
# Operators that read a tensor's shape and not its values.
_SHAPE_READERS = ("Shape", "Size")


class DataFlow:
    """Producers, consumers and constants of a main graph.

    Attributes:
        nodes: The graph's nodes in order.
        outputs: Names of the graph outputs.
    """

    def __init__(self, graph: onnx.GraphProto, inputs: Iterable[str]) -> None:
        self.nodes: Sequence[onnx.NodeProto] = tuple(graph.node)
        self.outputs = frozenset(value.name for value in graph.output)
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}
        self._producers = {output: node for node in self.nodes for output in node.output if output}
        self._consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for tensor in dict.fromkeys([*node.input, *captured(node)]):
                self._consumers[tensor].append(node)
        self._live = self._reach(inputs)

    def producer(self, tensor: str) -> onnx.NodeProto | None:
        """The node that computes a tensor; ``None`` for inputs and initializers."""
        return self._producers.get(tensor)

    def consumers(self, tensor: str) -> list[onnx.NodeProto]:
        """The nodes that read a tensor, also from inside a subgraph."""
        return self._consumers.get(tensor, [])

    def sole_consumer(self, tensor: str) -> onnx.NodeProto | None:
        """The one node that reads a tensor's values; ``None`` if there are more, or if it is a graph output."""
        readers = [node for node in self.consumers(tensor) if node.op_type not in _SHAPE_READERS]
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None

    def is_live(self, tensor: str) -> bool:
        """Whether a tensor depends on the image."""
        return tensor in self._live

    def weight(self, tensor: str) -> str | None:
        """The initializer behind a constant tensor, or the output of a Constant or DequantizeLinear; else ``None``.

        A quantised weight is named where it is a float: its initializer holds integers and cannot be scaled.
        """
        while tensor and tensor not in self._initializers:
            node = self._producers.get(tensor)
            if node is None:
                return None
            if node.op_type == "Constant" or (node.op_type == "DequantizeLinear" and self.is_constant(tensor)):
                return tensor
            if node.op_type not in _SAME_VALUE:
                return None
            tensor = node.input[0]
        return tensor or None

    def is_constant(self, tensor: str) -> bool:
        """Whether a tensor is given and does not depend on the image."""
        return bool(tensor) and tensor not in self._live

    def value(self, tensor: str) -> np.ndarray[Any, Any] | None:
        """The value of a small constant, in its type; ``None`` when it cannot be read off the graph."""
        name = self.weight(tensor)
        if name is None:
            return None
        if tensor != name:
            node = self._producers[tensor]
            inner = self.value(node.input[0])
            if inner is None or node.op_type == "CastLike":
                return None
            return inner.astype(_type_of_cast(node)) if node.op_type == "Cast" else inner
        if name in self._initializers:
            return onnx.numpy_helper.to_array(self._initializers[name])
        for entry in self._producers[name].attribute:
            if entry.name == "value":
                return onnx.numpy_helper.to_array(entry.t)
            if entry.name in ("value_float", "value_int", "value_floats", "value_ints"):
                return np.asarray(onnx.helper.get_attribute_value(entry))
        return None

    def sources(self, tensor: str) -> set[str]:
        """A tensor and every other that it is computed from."""
        found, pending = set(), [tensor]
        while pending:
            name = pending.pop()
            if name not in found:
                found.add(name)
                node = self._producers.get(name)
                pending += [] if node is None else [*node.input, *captured(node)]
        return found

    def scalar(self, tensor: str) -> float | None:
        """The value of a constant with one element; else ``None``."""
        value = self.value(tensor) if self.is_constant(tensor) else None
        return float(value.reshape(())) if value is not None and value.size == 1 else None

    def _reach(self, inputs: Iterable[str]) -> set[str]:
        """Tensors that depend on the image by value; a Shape and what follows from it alone do not."""
        reached = set(inputs)
        for node in self.nodes:
            reads = [*node.input, *captured(node)]
            if node.op_type not in _SHAPE_READERS and any(tensor in reached for tensor in reads):
                reached.update(output for output in node.output if output)
        return reached


def _type_of_cast(node: onnx.NodeProto) -> np.dtype[Any]:
    return onnx.helper.tensor_dtype_to_np_dtype(int(attribute(node, "to")))


def is_standard(node: onnx.NodeProto, *operators: str) -> bool:
    """Whether a node is one of these operators of the standard domain."""
    return node.domain in STANDARD_DOMAINS and node.op_type in operators


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """Value of a node's attribute, or the default."""
    for entry in node.attribute:
        if entry.name == name:
            return onnx.helper.get_attribute_value(entry)
    return default
