# SPDX-License-Identifier: Apache-2.0
"""Subgraphs of control flow (If, Loop, Scan, SequenceMap): walked, read and renamed with their scopes.

A subgraph sees the names of the graphs around it, unless it defines a name itself: its inputs, initializers and node
outputs shadow outer ones (ONNX IR specification, "Names Within a Graph" and "Graphs"). A model that shadows is not
valid by the letter, but exporters write such models and ONNX Runtime takes the inner name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import onnx


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Graphs that a node holds itself, in the order of its attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def walk(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes and those of their subgraphs at any depth, each before its own."""
    for node in nodes:
        yield node
        for graph in subgraphs(node):
            yield from walk(graph.node)


def captured(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node's subgraphs take from outside, outputs that only pass an outer name on too."""
    for graph in subgraphs(node):
        own = _defined(graph)
        yield from (name for inner in graph.node for name in reads(inner) if name not in own)
        yield from (value.name for value in graph.output if value.name not in own)


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node reads: its inputs but the omitted ones, then what its subgraphs take from outside."""
    yield from (name for name in node.input if name)
    yield from captured(node)


def rename(node: onnx.NodeProto, names: Mapping[str, str], *, outputs: bool = True) -> None:
    """Rename tensors of a node in place, inside its subgraphs where they mean the outer tensor.

    Args:
        node: The node to change.
        names: New names by old ones.
        outputs: Rename what the node writes too, not what it reads alone.
    """
    for part in (node.input, node.output) if outputs else (node.input,):
        for index, name in enumerate(part):
            part[index] = names.get(name, name)
    for graph in subgraphs(node):
        own = _defined(graph)
        outer = {old: new for old, new in names.items() if old not in own}
        for inner in graph.node:
            rename(inner, outer, outputs=False)
        for value in graph.output:
            value.name = outer.get(value.name, value.name)


def _defined(graph: onnx.GraphProto) -> set[str]:
    names = {item.name for item in (*graph.input, *graph.initializer)}
    names.update(tensor.values.name for tensor in graph.sparse_initializer)
    return names | {name for node in graph.node for name in node.output}
