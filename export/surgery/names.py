# SPDX-License-Identifier: Apache-2.0
"""New names for tensors and nodes that nothing in a model has, subgraphs included."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from patcher.model.subgraphs import subgraphs


class Names:
    """New names that nothing in a model has."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self._used = set(all_names(proto.graph))

    def __contains__(self, name: object) -> bool:
        return name in self._used

    def new(self, wanted: str) -> str:
        """`wanted`, or `wanted` with a number."""
        name, count = wanted, 1
        while name in self._used:
            name, count = f"{wanted}_{count}", count + 1
        self._used.add(name)
        return name


def all_names(graph: onnx.GraphProto) -> Iterator[str]:
    """Names of all tensors and nodes, in subgraphs too."""
    for part in (graph.input, graph.output, graph.value_info, graph.initializer):
        yield from (item.name for item in part)
    for node in graph.node:
        yield from (node.name, *node.input, *node.output)
        for inner in subgraphs(node):
            yield from all_names(inner)
