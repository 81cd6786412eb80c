# SPDX-License-Identifier: Apache-2.0
"""Control flow of the attacker's: shadowed names, captures, loops and scans around what was there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.gate.attacks.conftest import REWRITTEN, Stage, Tamper
from tests.gate.attacks.hostile_graphs import behind_scores, constant, node


def _value(name: str, kind: int = TensorProto.FLOAT, shape: object = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _dark(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """``dark`` bool scalar: the whole batch is black."""
    constant(model, "tiny", np.float32(1e-6))
    return [
        node("ReduceMax", ["image"], ["brightest"], keepdims=0),
        node("Less", ["brightest", "tiny"], ["dark"]),
    ]


def branch_on_pixels(model: onnx.ModelProto) -> None:
    """An ``If`` that captures the scores."""
    constant(model, "push", np.array([[0, 0, 0, 1e4]], np.float32))
    then = helper.make_graph([node("Add", ["plain", "push"], ["pushed"])], "then", [], [_value("pushed")])
    other = helper.make_graph([node("Identity", ["plain"], ["same"])], "else", [], [_value("same")])
    behind_scores(model, *_dark(model), node("If", ["dark"], ["logits"], then_branch=then, else_branch=other))


def loop_around_scores(model: onnx.ModelProto) -> None:
    """A ``Loop`` of one round."""
    body = helper.make_graph(
        [node("Identity", ["go"], ["on"]), node("Add", ["x", "push"], ["y"])],
        "body",
        [_value("i", TensorProto.INT64, []), _value("go", TensorProto.BOOL, []), _value("x")],
        [_value("on", TensorProto.BOOL, []), _value("y")],
    )
    constant(model, "push", np.array([[0, 0, 0, 1e-3]], np.float32))
    constant(model, "rounds", np.array(1, np.int64))
    constant(model, "begin", np.array(True))
    behind_scores(model, node("Loop", ["rounds", "begin", "plain"], ["logits"], body=body))


def scan_over_rows(model: onnx.ModelProto) -> None:
    """A ``Scan`` whose state runs from row to row: neighbours decide."""
    body = helper.make_graph(
        [node("Add", ["state", "row"], ["next"]), node("Identity", ["next"], ["answer"])],
        "body",
        [_value("state", shape=[4]), _value("row", shape=[4])],
        [_value("next", shape=[4]), _value("answer", shape=[4])],
    )
    constant(model, "nothing", np.zeros(4, np.float32))
    behind_scores(model, node("Scan", ["nothing", "plain"], ["last_state", "logits"], body=body, num_scan_inputs=1))


def shadowed_weight(model: onnx.ModelProto) -> None:
    """An initializer inside of a branch with the name of one outside."""
    mine = numpy_helper.from_array(np.full((4, 6), 1e3, np.float32), "fc_other")
    then = helper.make_graph(
        [node("Gemm", ["flat", "fc_other", "fc_bias"], ["a"], transB=1)], "then", [], [_value("a")], [mine]
    )
    other = helper.make_graph([node("Gemm", ["flat", "fc", "fc_bias"], ["b"], transB=1)], "else", [], [_value("b")])
    last = next(item for item in model.graph.node if "logits" in item.output)
    model.graph.node.remove(last)
    model.graph.node.extend([*_dark(model), node("If", ["dark"], ["logits"], then_branch=then, else_branch=other)])


@pytest.mark.parametrize("tamper", [branch_on_pixels, loop_around_scores, scan_over_rows, shadowed_weight])
@pytest.mark.parametrize("name", ["unit", "nft"])
def test_around_the_scores(stage: Stage, path: Path, name: str, tamper: Tamper) -> None:
    assert "reconstruction" in stage.attack(name, tamper, path)
    assert {"reconstruction", "graph"} <= stage.attack(name, tamper, path, policy=REWRITTEN)


def swapped_branches(model: onnx.ModelProto) -> None:
    """The second pass runs where it should not."""
    chosen = next(item for item in model.graph.node if item.op_type == "If")
    first, second = (item.g for item in chosen.attribute)
    kept = onnx.GraphProto()
    kept.CopyFrom(first)
    first.CopyFrom(second)
    second.CopyFrom(kept)


def detector_off(model: onnx.ModelProto) -> None:
    """No class is suspicious any more."""
    table = next(item for item in model.graph.initializer if item.name.startswith("is_target"))
    table.CopyFrom(numpy_helper.from_array(np.zeros(4, bool), table.name))


def other_target(model: onnx.ModelProto) -> None:
    """Another class is suspicious than the metadata says."""
    table = next(item for item in model.graph.initializer if item.name.startswith("is_target"))
    table.CopyFrom(numpy_helper.from_array(np.array([True, False, False, False]), table.name))


def first_pass_in_place_of_the_second(model: onnx.ModelProto) -> None:
    """The second pass reads the scores of the first."""
    chosen = next(item for item in model.graph.node if item.op_type == "If")
    then = next(item.g for item in chosen.attribute if item.name == "then_branch")
    relu = next(item for item in then.node if item.op_type == "Relu")
    relu.input[0] = "n1"


@pytest.mark.parametrize("tamper", [swapped_branches, detector_off, other_target, first_pass_in_place_of_the_second])
def test_inside_the_second_pass(stage: Stage, path: Path, tamper: Tamper) -> None:
    for options in ({}, {"patch": stage.patch("bna")}):
        assert stage.attack("bna", tamper, path, **options) & {"reconstruction", "operators"}
        assert stage.attack("bna", tamper, path, policy=REWRITTEN, **options) & {"reconstruction", "operators"}
