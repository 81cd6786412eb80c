# SPDX-License-Identifier: Apache-2.0
"""How large a graph is once its local functions are written out.

A function that calls another twice, which calls a third twice, and so on, is a few lines in the file and
billions of nodes in memory; ONNX Runtime writes functions out when it loads a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx

from patcher.errors import UnsupportedGraphError
from patcher.model.subgraphs import walk

# Every step of reading is linear in the nodes; beyond this one, it takes more than a few seconds. Exported
# classifiers have some hundred nodes, the largest transformers some thousand.
MAX_NODES = 20_000

_Function = tuple[str, str]


def check_size(proto: onnx.ModelProto, name: str) -> None:
    """Refuse a graph that no classifier needs.

    Raises:
        UnsupportedGraphError: There are more than 20 000 nodes, or functions that call themselves.
    """
    functions = {(item.domain, item.name): item for item in proto.functions}
    counted: dict[_Function, int] = {}
    for key in functions:
        _count_function(key, functions, counted, name)
    count = _count(proto.graph.node, counted)
    if count > MAX_NODES:
        raise UnsupportedGraphError(
            f"{name}: at most {MAX_NODES} nodes expected, found {count} with functions expanded"
        )


def _count_function(
    root: _Function, functions: dict[_Function, onnx.FunctionProto], counted: dict[_Function, int], name: str
) -> None:
    """Count a function's nodes after those of all that it calls; no recursion, since chains may be long."""
    stack, active = [root], set[_Function]()
    while stack:
        key = stack[-1]
        missing = [call for call in _calls(functions[key].node) if call in functions and call not in counted]
        if key in counted or not missing:
            counted.setdefault(key, min(_count(functions[key].node, counted), MAX_NODES + 1))
            active.discard(key)
            stack.pop()
            continue
        if key in active:
            raise UnsupportedGraphError(f"{name}: local function {key[1]!r} calls itself; export the model again")
        active.add(key)
        stack.extend(missing)


def _count(nodes: Iterable[onnx.NodeProto], counted: dict[_Function, int]) -> int:
    return sum(counted.get(call, 1) for call in _calls(nodes))


def _calls(nodes: Iterable[onnx.NodeProto]) -> Iterator[_Function]:
    """Operators of all nodes, those of subgraphs too."""
    return ((node.domain, node.op_type) for node in walk(nodes))
