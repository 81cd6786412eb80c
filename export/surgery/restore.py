# SPDX-License-Identifier: Apache-2.0
"""Give back to an edited graph what onnx-graphsurgeon's export lost.

Works in place on a copy of the original graph: nodes, initializers, inputs, outputs and value types
that the edit did not touch stay as they are, in their order; changed ones are updated field by field;
new ones are appended where the edit put them.
"""

from __future__ import annotations

from typing import Any

import onnx
from onnx_graphsurgeon.ir.tensor import LazyValues


class Opened:
    """What a graph looked like when it was opened: which node came from where, with which attributes."""

    def __init__(self, graph: Any, proto: onnx.GraphProto) -> None:
        # Holding the nodes keeps their ids from being used again.
        self.nodes = {id(node): (node, node_proto) for node, node_proto in zip(graph.nodes, proto.node, strict=True)}
        self.attributes = {id(node): _snapshot(node.attrs) for node in graph.nodes}
        self.subgraphs = {
            (id(node), entry.name): Opened(node.attrs[entry.name], entry.g)
            for node, node_proto in self.nodes.values()
            for entry in node_proto.attribute
            if entry.type == onnx.AttributeProto.GRAPH and not entry.ref_attr_name
        }
        self.used = _used_names(graph)


def restore_graph(result: onnx.GraphProto, graph: Any, exported: onnx.GraphProto, opened: Opened) -> None:
    """Bring a copy of the original graph up to date with its edited form.

    Args:
        result: Copy of the original graph; updated in place.
        graph: The edited onnx-graphsurgeon graph.
        exported: Its export.
        opened: The record made when it was opened.
    """
    nodes = [
        _restored_node(node, node_proto, opened) for node, node_proto in zip(graph.nodes, exported.node, strict=True)
    ]
    del result.node[:]
    result.node.extend(nodes)
    used = _used_names(graph)
    gone = opened.used - used
    _restore_initializers(result, graph, exported, gone)
    _restore_values(result.input, exported.input, [tensor.name for tensor in graph.inputs], keep_unlisted=True)
    _restore_values(result.output, exported.output, [tensor.name for tensor in graph.outputs])
    kept = [_copy(value) for value in result.value_info if value.name not in gone]
    declared = {value.name for part in (result.input, result.output, result.value_info) for value in part}
    new = used - opened.used - declared
    kept += [value for value in exported.value_info if value.name in new]
    del result.value_info[:]
    result.value_info.extend(kept)


def _restored_node(node: Any, exported: onnx.NodeProto, opened: Opened) -> onnx.NodeProto:
    if id(node) not in opened.nodes:
        return exported
    restored = onnx.NodeProto()
    restored.CopyFrom(opened.nodes[id(node)][1])
    for part in ("input", "output"):
        if list(getattr(restored, part)) != list(getattr(exported, part)):
            del getattr(restored, part)[:]
            getattr(restored, part).extend(getattr(exported, part))
    if restored.op_type != exported.op_type:
        restored.op_type = exported.op_type
    _restore_attributes(restored, node, exported, opened)
    return restored


def _restore_attributes(restored: onnx.NodeProto, node: Any, exported: onnx.NodeProto, opened: Opened) -> None:
    before = opened.attributes[id(node)]
    now = _snapshot(node.attrs)
    changed = {name for name in now if name not in before or not _same(before[name], now[name])}
    removed = set(before) - set(now)
    if changed or removed:
        kept = [_copy(entry) for entry in restored.attribute if entry.name not in changed | removed]
        del restored.attribute[:]
        restored.attribute.extend(kept)
        restored.attribute.extend(entry for entry in exported.attribute if entry.name in changed)
    exported_graphs = {entry.name: entry.g for entry in exported.attribute}
    for entry in restored.attribute:
        inner = opened.subgraphs.get((id(node), entry.name))
        if inner is not None and entry.name not in changed:
            restore_graph(entry.g, node.attrs[entry.name], exported_graphs[entry.name], inner)


def _restore_initializers(result: onnx.GraphProto, graph: Any, exported: onnx.GraphProto, gone: set[str]) -> None:
    tensors = graph.tensors()
    known = {tensor.name for tensor in result.initializer}
    known |= {tensor.values.name for tensor in result.sparse_initializer}
    new = {tensor.name: tensor for tensor in exported.initializer}
    for index in reversed(range(len(result.initializer))):
        tensor = result.initializer[index]
        if tensor.name in gone:
            del result.initializer[index]
        elif tensor.name in tensors and _has_new_values(tensors[tensor.name], tensor):
            changed = _copy(new[tensor.name])
            changed.doc_string = tensor.doc_string
            tensor.CopyFrom(changed)
    result.initializer.extend(tensor for tensor in exported.initializer if tensor.name not in known)


def _has_new_values(constant: Any, original: onnx.TensorProto) -> bool:
    """Whether an edit gave a constant other values; having only read them is no change."""
    values = getattr(constant, "_values", None)
    if values is None or isinstance(values, LazyValues):
        return False
    before = onnx.numpy_helper.to_array(original)
    return bool(before.dtype != values.dtype or before.shape != values.shape or before.tobytes() != values.tobytes())


def _restore_values(part: Any, exported: Any, names: list[str], *, keep_unlisted: bool = False) -> None:
    """Keep the declared values in the edited order; ``keep_unlisted`` keeps initializers listed as inputs."""
    original = {value.name: _copy(value) for value in part}
    if keep_unlisted:
        listed = {value.name for value in exported}
        names = [name for name in original if name in listed or name not in names] + [
            name for name in names if name not in original
        ]
    new = {value.name: value for value in exported}
    values = [original.get(name, new.get(name)) for name in names]
    del part[:]
    part.extend(value for value in values if value is not None)


def _snapshot(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, list) else value for name, value in attributes.items()}


def _same(before: Any, now: Any) -> bool:
    # Tensors and subgraphs are compared by identity, plain values by value (NaN equals itself).
    return before is now or (isinstance(before, int | float | str | list) and repr(before) == repr(now))


def _used_names(graph: Any) -> set[str]:
    """Names of the tensors that nodes (in subgraphs too) read or write, and of the outputs."""
    names = {tensor.name for tensor in graph.outputs}
    for node in graph.nodes:
        names.update(tensor.name for tensor in (*node.inputs, *node.outputs))
        for value in node.attrs.values():
            if isinstance(value, type(graph)):
                names |= _used_names(value)
    names.discard("")
    return names


def _copy(message: Any) -> Any:
    copied = type(message)()
    copied.CopyFrom(message)
    return copied
