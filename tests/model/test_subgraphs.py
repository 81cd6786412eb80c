# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import onnx
import pytest
from onnx.helper import make_graph, make_node, make_tensor, make_tensor_value_info

from patcher.model.subgraphs import captured, reads, rename, walk

FLOAT = onnx.TensorProto.FLOAT


def _value(name: str) -> onnx.ValueInfoProto:
    return make_tensor_value_info(name, FLOAT, None)


def _graph(
    nodes: list[onnx.NodeProto], outputs: list[str], inputs: tuple[str, ...] = (), weights: tuple[str, ...] = ()
) -> onnx.GraphProto:
    initializers = [make_tensor(name, FLOAT, [1], [1.0]) for name in weights]
    return make_graph(
        nodes, "body", [_value(name) for name in inputs], [_value(name) for name in outputs], initializers
    )


def _if(body: onnx.GraphProto, other: onnx.GraphProto | None = None) -> onnx.NodeProto:
    return make_node("If", ["flag"], ["chosen"], then_branch=body, else_branch=other or body)


def _body(node: onnx.NodeProto) -> onnx.GraphProto:
    return node.attribute[0].g


def test_a_name_from_outside_is_read_and_renamed_at_any_depth() -> None:
    inner = _if(_graph([make_node("Relu", ["x"], ["deep"])], ["deep"]))
    node = _if(_graph([inner], ["chosen"]))
    assert set(reads(node)) == {"flag", "x"}
    rename(node, {"x": "x2", "flag": "flag2", "chosen": "chosen2"})
    assert (list(node.input), list(node.output)) == (["flag2"], ["chosen2"])
    inner = _body(node).node[0]
    # The inner output of the same name is the subgraph's own.
    assert (list(inner.input), list(inner.output)) == (["flag2"], ["chosen"])
    assert [value.name for value in _body(node).output] == ["chosen"]
    assert list(_body(inner).node[0].input) == ["x2"]


@pytest.mark.parametrize("operator", ["Loop", "Scan"])
@pytest.mark.parametrize("shadow", ["input", "initializer", "output"])
def test_what_a_body_defines_itself_shadows_the_outer_name(operator: str, shadow: str) -> None:
    nodes = [make_node("Add", ["x", "y"], ["sum"])]
    if shadow == "output":
        nodes.insert(0, make_node("Relu", ["y"], ["x"]))
    body = _graph(nodes, ["sum"], ("x",) if shadow == "input" else ("step",), ("x",) if shadow == "initializer" else ())
    node = make_node(operator, ["x"], ["result"], body=body)
    assert set(captured(node)) == {"y"}
    rename(node, {"x": "x2", "y": "y2"})
    assert list(node.input) == ["x2"]
    assert list(_body(node).node[-1].input) == ["x", "y2"]


def test_a_name_shadowed_by_the_body_between_stays_in_the_innermost() -> None:
    innermost = _if(_graph([make_node("Relu", ["x"], ["deep"])], ["deep"]))
    node = make_node("Loop", ["n", "", "x"], ["result"], body=_graph([innermost], ["chosen"], ("x",)))
    assert list(reads(node)) == ["n", "x", "flag"]
    rename(node, {"x": "x2"})
    assert list(_body(_body(node).node[0]).node[0].input) == ["x"]


def test_a_subgraph_output_that_passes_an_outer_name_on_is_read_and_renamed() -> None:
    node = _if(_graph([], ["x"]), _graph([make_node("Relu", ["y"], ["x"])], ["x"]))
    assert list(captured(node)) == ["y", "x"]  # attributes are sorted: else_branch first
    rename(node, {"x": "x2", "y": "y2"})
    graphs = {attribute.name: attribute.g for attribute in node.attribute}
    assert graphs["then_branch"].output[0].name == "x2"
    assert graphs["else_branch"].output[0].name == "x"
    assert list(graphs["else_branch"].node[0].output) == ["x"]


def test_outputs_stay_where_only_inputs_are_renamed() -> None:
    node = make_node("Relu", ["x"], ["x_out"])
    rename(node, {"x": "a", "x_out": "b"}, outputs=False)
    assert (list(node.input), list(node.output)) == (["a"], ["x_out"])


def test_the_walk_visits_a_node_before_its_subgraphs() -> None:
    inner = _if(_graph([make_node("Relu", ["x"], ["deep"])], ["deep"]), _graph([make_node("Neg", ["x"], ["d"])], ["d"]))
    assert [node.op_type for node in walk([inner, make_node("Abs", ["x"], ["z"])])][0::3] == ["If", "Abs"]
    assert len(list(walk([inner]))) == 3
