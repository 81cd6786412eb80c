# SPDX-License-Identifier: Apache-2.0
"""The one door to onnx-graphsurgeon: open a model, edit it, close it without losing anything.

onnx-graphsurgeon's own export loses the model's ``metadata_props``, doc strings, domain and version,
the metadata of nodes, graphs and values, quantisation annotations and function overloads, reorders
initializers and fails on optional types. So its graph is used for editing only: closing starts from
the original and takes over what the edit changed, node by node. Whatever was not touched is the
original's, byte for byte.

    original ──▶ open_graph ──▶ edits on .graph ──▶ close_graph ──▶ original + edits
        └────────────────── everything not edited ──────────────────────┘
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx_graphsurgeon.logger import G_LOGGER

from patcher.errors import UnsupportedGraphError
from patcher.export.surgery.names import Names
from patcher.export.surgery.restore import Opened, restore_graph

# graphsurgeon sees the values of constants this small; edits of large weights read the original.
_VALUE_LIMIT = 256
# Attribute types that graphsurgeon drops with a warning; they come back when the graph is closed.
_DROPPED = (onnx.AttributeProto.SPARSE_TENSOR, onnx.AttributeProto.TYPE_PROTO, onnx.AttributeProto.GRAPHS)


@dataclass
class OpenGraph:
    """A model open for editing.

    Attributes:
        graph: The onnx-graphsurgeon graph. Constants of more than 256 elements have no values in it.
        original: The model it came from; never modified.
    """

    graph: Any
    original: onnx.ModelProto
    opened: Opened = field(repr=False)
    names: Names = field(repr=False)

    def tensor(self, name: str) -> Any:
        """The tensor of that name in the main graph.

        Raises:
            UnsupportedGraphError: The main graph has no such tensor.
        """
        found = self.graph.tensors().get(name)
        if found is None:
            where = "inside a subgraph or function" if name in self.names else "not in the model"
            raise UnsupportedGraphError(f"tensor {name!r} is {where}; only tensors of the main graph can be patched")
        return found

    def constant(self, wanted: str, values: NDArray[Any]) -> Any:
        """A new constant under a unique name."""
        return gs.Constant(self.names.new(wanted), np.ascontiguousarray(values).reshape(values.shape))

    def variable(self, wanted: str, dtype: Any = None, shape: Any = None) -> Any:
        """A new tensor under a unique name."""
        return gs.Variable(self.names.new(wanted), dtype=dtype, shape=shape)

    def absent(self) -> Any:
        """What stands for an optional input that is left out."""
        return gs.Variable.empty()

    def node(self, operator: str, name: str, inputs: list[Any], outputs: list[Any], **attributes: Any) -> Any:
        """A new node under a unique name, not yet in the graph."""
        return gs.Node(operator, self.names.new(name), attributes, inputs, outputs)


def open_graph(proto: onnx.ModelProto) -> OpenGraph:
    """Open a model for editing.

    Args:
        proto: The model; it is not modified.

    Raises:
        UnsupportedGraphError: onnx-graphsurgeon cannot hold the graph.
    """
    skeleton = _skeleton(proto)
    try:
        with G_LOGGER.suppress(G_LOGGER.ERROR):
            graph = gs.import_onnx(skeleton)
    except (gs.OnnxGraphSurgeonException, ValueError, TypeError, KeyError) as error:
        raise UnsupportedGraphError(f"the graph cannot be opened for editing: {error}") from error
    return OpenGraph(graph, proto, Opened(graph, proto.graph), Names(proto))


def close_graph(open_graph: OpenGraph) -> onnx.ModelProto:
    """Turn an edited graph back into a model.

    Returns:
        A new model: the original with the edits.
    """
    with G_LOGGER.suppress(G_LOGGER.ERROR):
        exported = gs.export_onnx(open_graph.graph, do_type_check=False)
    result = onnx.ModelProto()
    result.CopyFrom(open_graph.original)
    restore_graph(result.graph, open_graph.graph, exported.graph, open_graph.opened)
    return result


def split_tensor(open_graph: OpenGraph, name: str, suffix: str) -> tuple[Any, Any, int]:
    """Make room behind a tensor.

    Its producer writes a new tensor instead; the tensor itself keeps its name, its place among the
    graph outputs and every consumer (residual sums and subgraphs too), and waits for a new producer.

        producer ─▶ name ─▶ consumers     becomes     producer ─▶ name_suffix   …   name ─▶ consumers

    Args:
        open_graph: The open graph.
        name: The tensor.
        suffix: What the new tensor's name gets.

    Returns:
        The tensor before the gap, the tensor behind it, and the position in ``graph.nodes`` at which
        the nodes that bridge the gap must be inserted.

    Raises:
        UnsupportedGraphError: The tensor is not computed by a node of the main graph.
    """
    behind = open_graph.tensor(name)
    graph = open_graph.graph
    position = next((i for i, node in enumerate(graph.nodes) if any(out is behind for out in node.outputs)), None)
    if position is None:
        raise UnsupportedGraphError(f"tensor {name!r} is an input or initializer; only computed tensors can be patched")
    producer = graph.nodes[position]
    before = open_graph.variable(f"{name}_{suffix}", getattr(behind, "dtype", None), getattr(behind, "shape", None))
    index = next(i for i, out in enumerate(producer.outputs) if out is behind)
    producer.outputs[index] = before
    return before, behind, position + 1


def replace_consumers(open_graph: OpenGraph, tensor: Any, replacement: Any) -> int:
    """Let every consumer of a tensor, in subgraphs too, read another one instead.

    Returns:
        The position in ``graph.nodes`` of the first consumer.

    Raises:
        UnsupportedGraphError: Nothing reads the tensor.
    """
    first: int | None = None
    for position, node in enumerate(open_graph.graph.nodes):
        # A list: nodes of subgraphs count as their outer node.
        if any([_replace_input(inner, tensor, replacement) for inner in _with_inner(node)]) and first is None:
            first = position
    if first is None:
        raise UnsupportedGraphError(f"nothing in the graph reads {tensor.name!r}")
    return first


def _with_inner(node: Any) -> Iterator[Any]:
    yield node
    for value in node.attrs.values():
        if isinstance(value, gs.Graph):
            for inner in value.nodes:
                yield from _with_inner(inner)


def _replace_input(node: Any, tensor: Any, replacement: Any) -> bool:
    found = False
    for index, item in enumerate(node.inputs):
        if item is tensor:
            node.inputs[index] = replacement
            found = True
    return found


def _skeleton(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model without large weights, functions and whatever else graphsurgeon cannot hold."""
    skeleton = onnx.ModelProto(ir_version=proto.ir_version)
    skeleton.opset_import.extend(proto.opset_import)
    skeleton.graph.name = proto.graph.name
    skeleton.graph.node.extend(proto.graph.node)
    for part in ("input", "output", "value_info"):
        getattr(skeleton.graph, part).extend(getattr(proto.graph, part))
    for tensor in proto.graph.initializer:
        if math.prod(tensor.dims) <= _VALUE_LIMIT:
            skeleton.graph.initializer.append(tensor)
        else:
            skeleton.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    skeleton.graph.sparse_initializer.extend(proto.graph.sparse_initializer)
    _drop_unreadable(skeleton.graph)
    return skeleton


def _drop_unreadable(graph: onnx.GraphProto) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info):
        if not value.type.HasField("tensor_type"):
            value.ClearField("type")
    for node in graph.node:
        readable = [attribute for attribute in node.attribute if _is_readable(attribute)]
        if len(readable) != len(node.attribute):
            kept = [onnx.AttributeProto.FromString(attribute.SerializeToString()) for attribute in readable]
            del node.attribute[:]
            node.attribute.extend(kept)
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _drop_unreadable(attribute.g)


def _is_readable(attribute: onnx.AttributeProto) -> bool:
    try:
        for text in (attribute.s, *attribute.strings):
            text.decode()
    except UnicodeDecodeError:
        return False
    return attribute.type not in _DROPPED
