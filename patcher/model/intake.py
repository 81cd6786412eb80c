# SPDX-License-Identifier: Apache-2.0
"""What exporters, converters and toolkits leave in the files they ship, put right in memory.

| found | what is done |
|---|---|
| a length below 1 (Paddle2ONNX writes ``-1`` for the batch) | the axis is open |
| a graph without a name | gets one |
| nodes in no order (ONNX Runtime's fp16 converter) | sorted by data flow |
| a tail of ``ai.onnx.ml`` (ZipMap, ArrayFeatureExtractor) | cut off behind the probability tensor |
| opset 7 to 10 | converted to opset 11 by ``onnx.version_converter`` |

The file itself is never touched. Each change is said in one line: a hardened model is made from what is left.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

import onnx

from patcher.errors import UnsupportedGraphError
from patcher.model.file import fits_inline
from patcher.runtime import one_line

OLDEST_OPSET = 7
CONVERTED_OPSET = 11
_STANDARD = ("", "ai.onnx")
_ML_DOMAIN = "ai.onnx.ml"
# What scikit-learn and Azure Custom Vision put behind a classifier: names for classes, maps for tensors.
_TAIL = ("ZipMap", "ArrayFeatureExtractor", "LabelEncoder")
_SHAPE_ONLY = ("Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten")


def standardize(proto: onnx.ModelProto, name: str) -> tuple[str, ...]:
    """Put a model in standard form, in place.

    Args:
        proto: The model; belongs to the caller alone.
        name: Its name, for messages.

    Returns:
        One line for each change; empty for a model that needs none.

    Raises:
        UnsupportedGraphError: An operator of ``ai.onnx.ml`` stands before the class scores.
    """
    changes = [_named(proto), _open_lengths(proto), _sorted_nodes(proto), _without_tail(proto, name)]
    return tuple(change for change in changes if change)


def convert_opset(proto: onnx.ModelProto, name: str) -> tuple[onnx.ModelProto, str]:
    """Convert a model of opset 7 to 10; whoever calls proves that it answers as before.

    Args:
        proto: The model.
        name: Its name, for messages.

    Returns:
        The converted model and one line; a model that needs no conversion itself, and no line.

    Raises:
        UnsupportedGraphError: The conversion fails.
    """
    opset = next((entry.version for entry in proto.opset_import if entry.domain in _STANDARD), CONVERTED_OPSET)
    if not OLDEST_OPSET <= opset < CONVERTED_OPSET:
        return proto, ""
    try:
        converted = onnx.version_converter.convert_version(proto, CONVERTED_OPSET)
    except (RuntimeError, ValueError, IndexError, onnx.shape_inference.InferenceError) as error:
        raise UnsupportedGraphError(
            f"{name}: opset {opset} cannot be converted to {CONVERTED_OPSET} ({one_line(error)}); export it again"
        ) from error
    return converted, f"opset {opset} converted to {CONVERTED_OPSET}"


def _named(proto: onnx.ModelProto) -> str:
    # The standard wants a name, ONNX Runtime does not.
    if proto.graph.name:
        return ""
    proto.graph.name = "graph"
    return "a graph without a name called 'graph'"


def _open_lengths(proto: onnx.ModelProto) -> str:
    graph, count = proto.graph, 0
    # In between, 0 is a legitimate length: that of an empty tensor.
    for values, least in (((*graph.input, *graph.output), 1), (graph.value_info, 0)):
        for value in values:
            for dim in value.type.tensor_type.shape.dim:
                if dim.HasField("dim_value") and dim.dim_value < least:
                    dim.ClearField("dim_value")
                    count += 1
    return f"{count} lengths below 1 taken as open" if count else ""


def _sorted_nodes(proto: onnx.ModelProto) -> str:
    nodes = list(proto.graph.node)
    made_by = {output: index for index, node in enumerate(nodes) for output in node.output if output}
    needs = [{made_by[name] for name in _reads(node) if name in made_by} for node in nodes]
    if all(max(wanted, default=-1) < index for index, wanted in enumerate(needs)):
        return ""
    readers: list[list[int]] = [[] for _ in nodes]
    for index, wanted in enumerate(needs):
        for other in wanted:
            readers[other].append(index)
    missing = [len(wanted) for wanted in needs]
    ready = [index for index, count in enumerate(missing) if not count]
    order: list[int] = []
    while ready:
        order.append(heapq.heappop(ready))
        for reader in readers[order[-1]]:
            missing[reader] -= 1
            if not missing[reader]:
                heapq.heappush(ready, reader)
    if len(order) < len(nodes):
        return ""  # a circle; the checker says so
    _replace_nodes(proto, [nodes[index] for index in order])
    return "nodes sorted by data flow"


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node reads, through its subgraphs too."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            own = {output for inner in graph.node for output in inner.output}
            yield from (name for inner in graph.node for name in _reads(inner) if name not in own)
            yield from (value.name for value in graph.output if value.name not in own)


def _without_tail(proto: onnx.ModelProto, name: str) -> str:
    """Cut ``ai.onnx.ml`` operators off; what they read of the graph's floats becomes an output."""
    graph = proto.graph
    tail: list[onnx.NodeProto] = []
    behind: set[str] = set()
    for node in graph.node:
        if node.domain == _ML_DOMAIN or any(tensor in behind for tensor in node.input):
            tail.append(node)
            behind.update(node.output)
    if not tail:
        return ""
    inside = sorted({n.op_type for n in tail if n.op_type not in (_TAIL if n.domain == _ML_DOMAIN else _SHAPE_ONLY)})
    if inside:
        raise UnsupportedGraphError(
            f"{name}: {', '.join(inside)} at or behind operators of {_ML_DOMAIN} ({_operators(tail)}): only a tail "
            f"that renames classes ({', '.join(_TAIL)}) can be cut off; export the network up to its class scores"
        )
    read = {tensor for node in tail for tensor in node.input} - behind
    kept = [value for value in graph.output if value.name not in behind]
    listed = {value.name for value in kept}
    kept += [value for value in _float_values(proto, read) if value.name not in listed]
    if not kept:
        raise UnsupportedGraphError(
            f"{name}: no float tensor in front of {_operators(tail)}; export the network up to its class scores"
        )
    outputs = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in kept]
    del graph.output[:]
    graph.output.extend(outputs)
    _replace_nodes(proto, _live([node for node in graph.node if node not in tail], listed | {v.name for v in outputs}))
    others = [entry for entry in proto.opset_import if entry.domain != _ML_DOMAIN]
    if not any(node.domain == _ML_DOMAIN for node in graph.node):
        del proto.opset_import[:]
        proto.opset_import.extend(others)
    return f"tail of {_ML_DOMAIN} cut off ({_operators(tail)}): the output is now {outputs[0].name!r}"


def _float_values(proto: onnx.ModelProto, names: set[str]) -> list[onnx.ValueInfoProto]:
    """Types of tensors that nodes compute, where they are floats."""
    try:
        inferred = onnx.shape_inference.infer_shapes(proto).graph if fits_inline(proto) else proto.graph
    except onnx.shape_inference.InferenceError:
        inferred = proto.graph
    produced = {output for node in proto.graph.node for output in node.output}
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
    return [
        value
        for value in (*inferred.value_info, *inferred.output)
        if value.name in names & produced and value.type.tensor_type.elem_type in floats
    ]


def _operators(nodes: Sequence[onnx.NodeProto]) -> str:
    return ", ".join(sorted({node.op_type for node in nodes if node.domain == _ML_DOMAIN}))


def _live(nodes: Sequence[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    """Nodes that the outputs need, in their order."""
    kept = []
    needed = set(wanted)
    for node in reversed(nodes):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(_reads(node))
    return kept[::-1]


def _replace_nodes(proto: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> None:
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del proto.graph.node[:]
    proto.graph.node.extend(copies)
