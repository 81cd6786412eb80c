# SPDX-License-Identifier: Apache-2.0
"""A policy that accepts rewritten files: what a tool may rename and leave out, an attacker may not use.

Every tamper below renames a tensor first, so that the bytes are others and only the data flow can prove the file.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.gate.attacks.conftest import REWRITTEN, Stage, Tamper
from tests.gate.attacks.hostile_graphs import constant, metadata, node, rename


def renamed(model: onnx.ModelProto) -> None:
    """What an honest tool does."""
    rename(model, "sum", "total")


def bounds(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes that bound activations."""
    return [item for item in model.graph.node if item.op_type in ("Min", "Clip")]


def written(model: onnx.ModelProto, name: str, value: object) -> None:
    """Give an initializer another value."""
    tensor = next(item for item in model.graph.initializer if item.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(value), name))


def other_weights_under_the_method_that_changes_weights(model: onnx.ModelProto) -> None:
    """No bound is left, the last layer is the attacker's, and the method is said to be the one that may do that."""
    metadata(model, "patcher.method", "none")
    for item in bounds(model):
        model.graph.node.remove(item)
        rename(model, item.input[0], item.output[0])
    written(model, "fc", np.full((4, 6), 7, np.float32))


def bounds_that_bound_nothing(model: onnx.ModelProto) -> None:
    """In their places, and out of the reach of any activation."""
    for item in bounds(model):
        written(model, item.input[-1], np.full((1, 6, 1, 1), 1e30, np.float32))


def bound_for_nobody(model: onnx.ModelProto) -> None:
    """The right bound without a reader, and beside it one that bounds nothing, for all readers."""
    constant(model, "loose", np.full((1, 6, 1, 1), 1e30, np.float32))
    for item in bounds(model):
        place = list(model.graph.node).index(item)
        model.graph.node.insert(place + 1, node("Min", [item.input[0], "loose"], [item.output[0]]))
        item.output[0] += "_unread"


def features_under_the_name_of_an_output(model: onnx.ModelProto) -> None:
    """An inner tensor as the output that a method with a second pass would add."""
    rename(model, "flat", "logits_original")
    model.graph.output.append(helper.make_tensor_value_info("logits_original", TensorProto.FLOAT, ["N", 6]))


def declared_otherwise(model: onnx.ModelProto) -> None:
    """Another shape than the tensor has, for a runtime that plans its memory by it."""
    model.graph.value_info.append(helper.make_tensor_value_info("r1", TensorProto.FLOAT, ["N", 6, 1, 1]))


def of_another_type(model: onnx.ModelProto) -> None:
    """Another element type than the tensor has."""
    model.graph.value_info.append(helper.make_tensor_value_info("r1", TensorProto.FLOAT16, ["N", 6, 8, 8]))


def orders_for_the_runtime(model: onnx.ModelProto) -> None:
    """Session options, which ONNX Runtime takes from a model where its environment says so."""
    metadata(model, "ort_config", json.dumps({"session_options": {"intra_op_num_threads": 1}}))


def scores_elsewhere(model: onnx.ModelProto) -> None:
    """A service is told to read other scores than the corrected ones."""
    metadata(model, "patcher.scores", "logits_original")


def another_preprocessing_twice(model: onnx.ModelProto) -> None:
    """One key twice: which of them holds depends on the reader."""
    entry = next(item for item in model.metadata_props if item.key == "patcher.preprocess")
    model.metadata_props.insert(0, onnx.StringStringEntryProto(key=entry.key, value="{}"))


def default_that_a_caller_can_override(model: onnx.ModelProto) -> None:
    """A weight that is an input too."""
    model.graph.input.append(helper.make_tensor_value_info("fc", TensorProto.FLOAT, [4, 6]))


def weight_twice(model: onnx.ModelProto) -> None:
    """Two initializers of one name."""
    model.graph.initializer.insert(0, numpy_helper.from_array(np.full((4, 6), 7, np.float32), "fc"))


def weight_behind_a_node_of_its_name(model: onnx.ModelProto) -> None:
    """A node writes what an initializer holds."""
    value = numpy_helper.from_array(np.full((4, 6), 7, np.float32))
    model.graph.node.insert(0, node("Constant", [], ["fc"], value=value))


def other_axis_name(model: onnx.ModelProto) -> None:
    """The batch of the answers is another than the images'."""
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "M"


def standard_twice(model: onnx.ModelProto) -> None:
    """Both names of the standard's domain, in one version."""
    model.opset_import.append(helper.make_opsetid("ai.onnx", model.opset_import[0].version))


def minus_zero(model: onnx.ModelProto) -> None:
    """Equal numbers, other bits."""
    tensor = next(item for item in model.graph.initializer if item.name == "b1")
    values = numpy_helper.to_array(tensor).copy()
    values[0] = 0.0
    written(model, "b1", -np.abs(values) * (values == 0) + values)


def one_bit_of_a_weight(model: onnx.ModelProto) -> None:
    """The least that can be changed."""
    tensor = next(item for item in model.graph.initializer if item.name == "fc")
    bits = numpy_helper.to_array(tensor).copy().view(np.uint32)
    bits.flat[0] ^= 1
    written(model, "fc", bits.view(np.float32))


def not_a_number_of_another_kind(model: onnx.ModelProto) -> None:
    """NaN in a ``Constant`` node, where the checks on initializers do not look."""
    item = bounds(model)[0]
    value = np.array([np.nan, *[0.5] * 5], np.float32).reshape(1, 6, 1, 1)
    model.graph.node.insert(0, node("Constant", [], ["nothing"], value=numpy_helper.from_array(value)))
    item.input[1] = "nothing"


def coarse_scale_and_zero_point(model: onnx.ModelProto) -> None:
    """A quantised weight whose zero point undoes its sign."""
    constant(model, "step", np.float32(0.5))
    constant(model, "middle", np.uint8(255))
    place = next(i for i, item in enumerate(model.graph.node) if "fc" in item.input)
    model.graph.node[place].input[1] = "fc_coarse"
    model.graph.node.insert(place, node("QuantizeLinear", ["fc", "step", "middle"], ["fc_whole"]))
    model.graph.node.insert(place + 1, node("DequantizeLinear", ["fc_whole", "step", "middle"], ["fc_coarse"]))


def dead_payload(model: onnx.ModelProto) -> None:
    """Nodes that no output needs."""
    model.graph.node.append(node("Softsign", ["r1"], ["unread"]))


ALL = [
    other_weights_under_the_method_that_changes_weights,
    bounds_that_bound_nothing,
    bound_for_nobody,
    features_under_the_name_of_an_output,
    declared_otherwise,
    of_another_type,
    orders_for_the_runtime,
    scores_elsewhere,
    another_preprocessing_twice,
    default_that_a_caller_can_override,
    weight_twice,
    weight_behind_a_node_of_its_name,
    other_axis_name,
    standard_twice,
    minus_zero,
    one_bit_of_a_weight,
    not_a_number_of_another_kind,
    coarse_scale_and_zero_point,
    dead_payload,
]


def test_an_honest_tool_passes(stage: Stage, path: Path) -> None:
    for name in ("unit", "nft", "bna", "where"):
        for options in ({}, {"patch": stage.patch(name)}):
            assert stage.attack(name, renamed, path, policy=REWRITTEN, **options) == set()


@pytest.mark.parametrize("tamper", ALL)
def test_it_fails(stage: Stage, path: Path, tamper: Tamper) -> None:
    def both(model: onnx.ModelProto) -> None:
        renamed(model)
        tamper(model)

    for options in ({}, {"patch": stage.patch("unit")}):
        assert stage.refuses("unit", both, path, policy=REWRITTEN, **options)
        assert stage.refuses("unit", both, path, **options)
        assert stage.refuses("unit", tamper, path, **options)


def per_pixel(model: onnx.ModelProto) -> None:
    """A scale and a shift for each pixel, where the method has one for each channel."""
    place = next(i for i, item in enumerate(model.graph.node) if item.output[0] == "r2")
    model.graph.node[place].output[0] = "r2_unscaled"
    rng = np.random.default_rng(0)
    for name in ("r2_scale", "r2_shift"):
        constant(model, name, rng.random((1, 6, 8, 8), np.float32))
    model.graph.node.insert(place + 1, node("Mul", ["r2_unscaled", "r2_scale"], ["r2_scaled"]))
    model.graph.node.insert(place + 2, node("Add", ["r2_scaled", "r2_shift"], ["r2"]))


def drowning_shift(model: onnx.ModelProto) -> None:
    """A shift of a bias that no activation outweighs."""
    last = next(item for item in model.graph.node if "logits" in item.output)
    place = list(model.graph.node).index(last)
    constant(model, "logits_shift", np.array([0, 0, 0, 1e20], np.float32))
    source, last.input[2] = last.input[2], "logits_shifted_bias"
    model.graph.node.insert(place, node("Add", [source, "logits_shift"], ["logits_shifted_bias"]))


@pytest.mark.parametrize("tamper", [per_pixel, drowning_shift])
def test_values_that_no_calibration_gives(stage: Stage, path: Path, tamper: Tamper) -> None:
    def both(model: onnx.ModelProto) -> None:
        renamed(model)
        tamper(model)

    for options in ({}, {"patch": stage.patch("nft")}):
        assert stage.refuses("nft", both, path, policy=REWRITTEN, **options)
        assert stage.refuses("nft", tamper, path, **options)
