# SPDX-License-Identifier: Apache-2.0
"""Graphs are compared by what they compute, never by names."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from patcher.export import apply_patch
from patcher.gate.difference import Difference, compare_graphs
from patcher.model.model import read_model
from patcher.patch import Affine, Branch, BranchForm, Patch, Realignment, UpperBound, WeightMask, Weights
from tests.tiny_models import residual_model


def renamed(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with every inner name changed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kept = {value.name for value in (*copy.graph.input, *copy.graph.output)} | {""}
    for node in copy.graph.node:
        node.name = f"n_{node.name}"
        for part in (node.input, node.output):
            for index, name in enumerate(part):
                part[index] = name if name in kept else f"t_{name}"
    for tensor in copy.graph.initializer:
        tensor.name = f"t_{tensor.name}"
    return copy


def patched(*corrections: object) -> Difference:
    model = read_model(residual_model())
    hardened = apply_patch(model, Patch("unit", model.sha256, tuple(corrections)))
    first, second = compare_graphs(model.proto, hardened), compare_graphs(model.proto, renamed(hardened))
    assert [(item.operator, item.tensor) for item in first.additions] == [
        (item.operator, item.tensor) for item in second.additions
    ]
    assert (first.changed, first.outputs) == (second.changed, second.outputs)
    operators = [[text.split(" ")[0] for text in found.unexpected] for found in (first, second)]
    assert operators[0] == operators[1]
    return first


def test_a_graph_equals_itself_under_other_names() -> None:
    assert compare_graphs(residual_model(), renamed(residual_model())) == Difference()


def test_a_bound_behind_a_tensor_with_two_readers() -> None:
    found = patched(UpperBound("r1", np.full((1, 6, 1, 1), 0.5, np.float32)))
    assert [(item.operator, item.tensor, item.on_constant) for item in found.additions] == [("Min", "r1", False)]
    assert (found.changed, found.unexpected, found.bypassed, found.outputs) == ([], [], [], [])


def test_a_mask_on_a_weight() -> None:
    found = patched(WeightMask("w1", np.full((6, 1, 1, 1), 0.5, np.float32)))
    assert [(item.operator, item.tensor, item.on_constant) for item in found.additions] == [("Mul", "w1", True)]


def test_an_affine_is_two_additions_behind_one_tensor() -> None:
    scale = np.full((1, 6, 1, 1), 2.0, np.float32)
    found = patched(Affine("c1", scale, scale))
    assert [(item.operator, item.tensor) for item in found.additions] == [("Mul", "c1"), ("Add", "c1")]


def test_another_weight_is_named() -> None:
    found = patched(Weights("w2", np.zeros((6, 6, 3, 3), np.float32)))
    assert [(item.name, item.operator, item.position) for item in found.changed] == [("w2", "Conv", 1)]
    assert not found.unexpected


@pytest.mark.parametrize("operator", ["Relu", "Sigmoid"])
def test_another_operator_is_unexpected(operator: str) -> None:
    model = residual_model()
    node = model.graph.node[4]
    node.op_type = "Tanh"
    node.output[0] = "odd"
    model.graph.node.insert(5, helper.make_node(operator, ["odd"], ["r2"]))
    found = compare_graphs(residual_model(), model)
    assert found.unexpected or found.additions
    assert found.outputs == ["logits"] or found.additions


def test_a_removed_layer_changes_the_output() -> None:
    model = residual_model()
    sum_node = model.graph.node[3]
    model.graph.node.remove(sum_node)
    model.graph.node[3].input[0] = "c2"
    found = compare_graphs(residual_model(), model)
    assert found.outputs == ["logits"]
    assert found.lost == ["logits"]


def test_constants_in_nodes_are_initializers() -> None:
    model = residual_model()
    tensor = model.graph.initializer[0]
    constant = helper.make_node(
        "Constant", [], [tensor.name], value=numpy_helper.from_array(numpy_helper.to_array(tensor))
    )
    del model.graph.initializer[0]
    model.graph.node.insert(0, constant)
    assert compare_graphs(residual_model(), model) == Difference()


def test_an_attribute_counts() -> None:
    model = residual_model()
    next(item for item in model.graph.node[0].attribute if item.name == "pads").ints[:] = [0, 0, 2, 2]
    assert compare_graphs(residual_model(), model).outputs == ["logits"]


@pytest.mark.parametrize("form", ["if", "where"])
@pytest.mark.parametrize("keep", [False, True])
def test_a_second_pass_is_unexpected_but_what_its_patch_makes(form: BranchForm, keep: bool) -> None:
    ones = np.ones((2, 6, 1, 1), np.float32)
    branch = Branch((1, 2), (Realignment("c1", 0.9 * ones, 0.1 * ones, 5 * ones, -5 * ones),), form, keep)
    found = patched(branch)
    assert found.outputs == ["logits"]
    assert found.unexpected
    model = read_model(residual_model())
    made = apply_patch(model, Patch("bna", model.sha256, (branch,)))
    assert compare_graphs(made, made) == Difference()
