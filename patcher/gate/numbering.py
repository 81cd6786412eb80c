# SPDX-License-Identifier: Apache-2.0
"""Value numbers: equal computations get equal numbers, whatever their tensors are called.

A tensor's number stands for how it is computed: a constant by its content, an input by its place, a
node's output by the operator, its attributes and the numbers of what it reads (Cocke and Schwartz, 1970).
Optimisers and exporters rename tensors; numbers do not change with that. Equal nodes share a number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx

from patcher.model.inputs import real_inputs

Key = tuple[Any, ...]
_GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)


@dataclass(eq=False)
class Numbers:
    """Numbers handed out so far.

    Attributes:
        table: Number by what it stands for.
        constants: Numbers that do not depend on the image.
        types: Element type and shape of constants that lie in the file.
    """

    table: dict[Key, int] = field(default_factory=dict)
    constants: set[int] = field(default_factory=set)
    types: dict[int, Key] = field(default_factory=dict)

    def of(self, key: Key, *, constant: bool = False) -> int:
        """The number of a key, a new one where it has none."""
        number = self.table.setdefault(key, len(self.table))
        if constant:
            self.constants.add(number)
        return number

    def of_tensor(self, tensor: onnx.TensorProto) -> int:
        """The number of a constant in the file."""
        kind = (tensor.data_type, *tensor.dims)
        number = self.of(("constant", *kind, _content_digest(tensor)), constant=True)
        self.types[number] = kind
        return number

    def initial(self, proto: onnx.ModelProto) -> dict[str, int]:
        """Numbers of the main graph's inputs and constants by name."""
        inputs = real_inputs(proto)
        found = {value.name: self.of(("input", index)) for index, value in enumerate(inputs)}
        return found | self._constants(proto.graph)

    def _constants(self, graph: onnx.GraphProto) -> dict[str, int]:
        found = {tensor.name: self.of_tensor(tensor) for tensor in graph.initializer}
        for sparse in graph.sparse_initializer:
            digest = hashlib.sha256(sparse.SerializeToString(deterministic=True)).digest()
            found[sparse.values.name] = self.of(("sparse", digest), constant=True)
        return found

    def node_key(
        self, node: onnx.NodeProto, names: Mapping[str, int], inputs: Iterable[Any] | None = None, depth: int = 0
    ) -> Key:
        """What a node computes: operator, attributes, and the numbers of what it reads.

        Args:
            node: The node.
            names: Numbers by tensor name.
            inputs: Stand in for the numbers of the node's inputs.
            depth: Of the subgraph that it stands in; 0 in the main graph.
        """
        attributes = [
            (item.name, self._attribute(item, names, depth))
            for item in sorted(node.attribute, key=lambda item: item.name)
        ]
        read = self.inputs(node, names) if inputs is None else inputs
        # Split divides by the number of its outputs; a function may have overloads of one name.
        operator = (_domain(node), node.op_type, node.overload, len(node.output))
        return ("node", *operator, tuple(attributes), tuple(read))

    def inputs(self, node: onnx.NodeProto, names: Mapping[str, int]) -> list[int]:
        """Numbers of a node's inputs; an input left out has one too."""
        return [names[name] if name in names else self.of(("unknown", name)) for name in node.input]

    def output(self, key: Key, index: int, *, constant: bool) -> int:
        """The number of one output of a node."""
        return self.of((*key, index), constant=constant)

    def is_constant(self, node: onnx.NodeProto, numbers: Iterable[int]) -> bool:
        """Whether a node computes the same for every image, as far as its inputs tell."""
        if node.op_type in RANDOM or (node.op_type == "Dropout" and len(node.input) > 2):
            return False
        graphs = any(item.type in _GRAPHS for item in node.attribute)
        return not graphs and bool(node.input) and all(number in self.constants for number in numbers)

    def _attribute(self, item: onnx.AttributeProto, names: Mapping[str, int], depth: int) -> Key:
        if item.type in _GRAPHS:
            graphs = [item.g] if item.type == onnx.AttributeProto.GRAPH else item.graphs
            return ("graphs", *(self._graph(graph, names, depth + 1) for graph in graphs))
        if item.type == onnx.AttributeProto.TENSOR:
            return ("tensor", item.t.data_type, *item.t.dims, _content_digest(item.t))
        plain = onnx.AttributeProto()
        plain.CopyFrom(item)
        plain.ClearField("doc_string")
        return ("plain", plain.SerializeToString(deterministic=True))

    def _graph(self, graph: onnx.GraphProto, outer: Mapping[str, int], depth: int) -> Key:
        """A subgraph by the numbers of its outputs, seen from the graph around it."""
        names = {**outer, **self._constants(graph)}
        for index, value in enumerate(graph.input):
            # By depth: the inputs of a loop inside of another are not the outer one's.
            names[value.name] = self.of(("inner input", depth, index))
        for node in graph.node:
            names.update(self.number_node(node, names, depth))
        return (len(graph.input), *(names.get(value.name, -1) for value in graph.output))

    def number_node(self, node: onnx.NodeProto, names: Mapping[str, int], depth: int = 0) -> dict[str, int]:
        """Numbers of a node's outputs by name."""
        if (value := constant_value(node)) is not None:
            return {node.output[0]: self.of_tensor(value)}
        key = self.node_key(node, names, depth=depth)
        constant = self.is_constant(node, self.inputs(node, names))
        return {name: self.output(key, index, constant=constant) for index, name in enumerate(node.output) if name}


def constant_value(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The tensor of a ``Constant`` node, which is the same as an initializer."""
    plain = node.op_type == "Constant" and not _domain(node) and len(node.output) == 1 and not node.input
    if not plain or len(node.attribute) != 1 or node.attribute[0].name != "value":
        return None
    value: onnx.TensorProto = node.attribute[0].t
    return value


def _domain(node: onnx.NodeProto) -> str:
    """The standard's domain has two names."""
    return "" if node.domain == "ai.onnx" else str(node.domain)


def _content_digest(tensor: onnx.TensorProto) -> bytes:
    try:
        array = onnx.numpy_helper.to_array(tensor)
        # An array of texts holds addresses.
        content = repr(list(tensor.string_data)).encode() if array.dtype == object else array.tobytes()
    except (ValueError, TypeError, KeyError, OverflowError):
        content = tensor.SerializeToString(deterministic=True)
    return hashlib.sha256(content).digest()
