# SPDX-License-Identifier: Apache-2.0
"""Places in an ONNX file that a reader may overlook: functions, training info, sparse tensors, texts, opsets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from patcher.errors import InputError
from tests.gate.attacks.conftest import REWRITTEN, Stage, Tamper
from tests.gate.attacks.hostile_graphs import behind_scores, constant, metadata, node


def function_named_relu(model: onnx.ModelProto) -> None:
    """A local function with the name of a standard operator, in a domain of its own."""
    body = [node("Abs", ["x"], ["y"])]
    function = helper.make_function("local", "Relu", ["x"], ["y"], body, [helper.make_opsetid("", 17)])
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("local", 1))
    next(item for item in model.graph.node if item.op_type == "Relu").domain = "local"


def function_in_the_standard_domain(model: onnx.ModelProto) -> None:
    """The same in the standard's own domain."""
    body = [node("Abs", ["x"], ["y"])]
    model.functions.append(helper.make_function("", "Relu", ["x"], ["y"], body, [helper.make_opsetid("", 17)]))


def training_info(model: onnx.ModelProto) -> None:
    """An algorithm that a training runtime would run."""
    found = model.training_info.add()
    found.algorithm.CopyFrom(helper.make_graph([node("Identity", ["fc"], ["new"])], "step", [], []))
    found.update_binding.add(key="fc", value="new")


def sparse_weight(model: onnx.ModelProto) -> None:
    """A weight as a sparse tensor, with other values."""
    dense = next(item for item in model.graph.initializer if item.name == "fc_bias")
    model.graph.initializer.remove(dense)
    values = numpy_helper.from_array(np.array([9.0], np.float32), "fc_bias")
    indices = numpy_helper.from_array(np.array([3], np.int64), "fc_bias_indices")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))


def texts(model: onnx.ModelProto) -> None:
    """String tensors that nothing reads."""
    model.graph.initializer.append(helper.make_tensor("note", TensorProto.STRING, [1], [b"\x1b[2J"]))


def later_opset(model: onnx.ModelProto) -> None:
    """Another version of the operators."""
    model.opset_import[0].version += 1


def second_import(model: onnx.ModelProto) -> None:
    """The standard's operators twice, in two versions."""
    model.opset_import.append(helper.make_opsetid("ai.onnx", 11))


def doc_strings(model: onnx.ModelProto) -> None:
    """Texts that nobody compares."""
    model.graph.node[0].doc_string = "x" * 1000


def more_metadata(model: onnx.ModelProto) -> None:
    """A key of the product's that it does not write."""
    metadata(model, "patcher.trusted", "true")


def folded_by_name_only(model: onnx.ModelProto) -> None:
    """The metadata says that the bounds are folded."""
    metadata(model, "patcher.bake", "folded")


def targets_by_name_only(model: onnx.ModelProto) -> None:
    """The metadata asks a service for a second file."""
    metadata(model, "patcher.targets", "[1]")


def quantised_to_nothing(model: onnx.ModelProto) -> None:
    """A pair of quantisation nodes whose scale is larger than any score of one class."""
    constant(model, "scale", np.float32(1e3))
    constant(model, "zero_point", np.int8(0))
    behind_scores(
        model,
        node("QuantizeLinear", ["plain", "scale", "zero_point"], ["coarse"]),
        node("DequantizeLinear", ["coarse", "scale", "zero_point"], ["logits"]),
    )


def not_a_number(model: onnx.ModelProto) -> None:
    """A trigger that is no number: 0 / 0 at one pixel."""
    constant(model, "zero", np.float32(0))
    behind_scores(
        model,
        node("ReduceMax", ["image"], ["peak"], axes=[1, 2, 3], keepdims=0),
        node("Mul", ["peak", "zero"], ["nothing"]),
        node("Div", ["nothing", "nothing"], ["no_number"]),
        node("IsNaN", ["no_number"], ["always"]),
        node("Cast", ["always"], ["one"], to=int(TensorProto.FLOAT)),
        node("Unsqueeze", ["one", "axis"], ["column"]),
        node("Mul", ["plain", "column"], ["logits"]),
    )
    constant(model, "axis", np.array([1], np.int64))


def denormal(model: onnx.ModelProto) -> None:
    """A trigger below the smallest normal number, which some processors flush to 0."""
    constant(model, "least", np.float32(1e-40))
    constant(model, "huge", np.float32(1e38))
    behind_scores(
        model,
        node("Mul", ["plain", "least"], ["small"]),
        node("Mul", ["small", "huge"], ["grown"]),
        node("Add", ["grown", "plain"], ["logits"]),
    )


def optimiser_dependent(model: onnx.ModelProto) -> None:
    """A detour that an optimiser removes, and that overflows where it does not."""
    behind_scores(
        model,
        node("Cast", ["plain"], ["narrow"], to=int(TensorProto.FLOAT16)),
        node("Cast", ["narrow"], ["logits"], to=int(TensorProto.FLOAT)),
    )


ALL = [
    function_named_relu,
    function_in_the_standard_domain,
    training_info,
    sparse_weight,
    texts,
    later_opset,
    second_import,
    doc_strings,
    more_metadata,
    folded_by_name_only,
    targets_by_name_only,
    quantised_to_nothing,
    not_a_number,
    denormal,
    optimiser_dependent,
]
# They change what is computed, or could be; the others only what is said.
COMPUTED = [item for item in ALL if item not in (texts, doc_strings, more_metadata, folded_by_name_only)]


@pytest.mark.parametrize("tamper", ALL)
def test_it_is_not_identical(stage: Stage, path: Path, tamper: Tamper) -> None:
    for options in ({}, {"patch": stage.patch("unit")}):
        assert refused(stage, tamper, path, **options)


@pytest.mark.parametrize("tamper", COMPUTED)
def test_it_is_not_equivalent(stage: Stage, path: Path, tamper: Tamper) -> None:
    for options in ({}, {"patch": stage.patch("unit")}):
        assert refused(stage, tamper, path, policy=REWRITTEN, **options)


def refused(stage: Stage, tamper: Tamper, path: Path, **options: object) -> bool:
    """Whether the gate fails on it, or says that it is no model."""
    try:
        return bool(stage.attack("unit", tamper, path, **options))
    except InputError:
        return True
