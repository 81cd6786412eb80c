# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from patcher.errors import InputError, PatcherError, UnsupportedGraphError
from patcher.model.model import read_model
from tests.tiny_models import (
    RESIDUAL_SHAPES,
    build,
    head,
    node,
    residual_model,
    residual_nodes,
    weights_of,
    zoo,
    zoo_files,
)


def test_describes_a_classifier():
    model = read_model(residual_model())
    assert model.input.name == "image"
    assert model.input.shape == ("N", 3, 8, 8)
    assert (model.layout, model.channels, model.image_size, model.batch) == ("NCHW", 3, (8, 8), None)
    assert (model.logits, model.head, model.num_classes, model.opset) == ("logits", "logits", 4, 17)
    assert [output.name for output in model.outputs] == ["logits"]
    assert model.shapes["r1"] == (None, 6, 8, 8)
    assert model.shapes["w2"] == (6, 6, 3, 3)
    assert model.elem_types["r1"] == TensorProto.FLOAT
    assert model.path is None


def test_path_bytes_and_proto_agree(tmp_path):
    proto = residual_model()
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString(deterministic=True))
    read = [read_model(path), read_model(str(path)), read_model(path.read_bytes()), read_model(proto)]
    assert {model.sha256 for model in read} == {hashlib.sha256(path.read_bytes()).hexdigest()}
    assert read[0].path == path
    assert all(model.proto == proto for model in read)


def test_a_given_proto_is_copied():
    proto = residual_model()
    model = read_model(proto)
    proto.graph.node[0].name = "changed"
    assert model.proto.graph.node[0].name == ""


@pytest.mark.parametrize("opset", [11, 12, 13, 15, 17, 18, 20, 22, 24, 26])
def test_opsets(opset):
    assert read_model(residual_model(opset=opset, ir_version=7 if opset < 15 else 10)).opset == opset


def test_half_precision():
    model = read_model(residual_model(dtype=np.float16))
    assert (model.input.elem_type, model.num_classes) == (TensorProto.FLOAT16, 4)


def test_what_onnx_runtime_lacks_is_named():
    with pytest.raises(UnsupportedGraphError, match=r"Could not find an implementation for Conv"):
        read_model(residual_model(dtype=np.float64))


def test_initializers_listed_as_inputs_are_no_inputs():
    assert read_model(residual_model(listed_as_inputs=True)).input.name == "image"


def test_uint8_nhwc_input_with_casting_in_the_graph():
    nodes = [
        node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        node("Transpose", ["float"], ["nchw"], perm=[0, 3, 1, 2]),
        *residual_nodes(),
    ]
    nodes[2].input[0] = "nchw"
    proto = build(
        nodes,
        weights_of(RESIDUAL_SHAPES),
        image=("N", 8, 8, 3),
        elem_type=TensorProto.UINT8,
        output_type=TensorProto.FLOAT,
    )
    model = read_model(proto)
    assert (model.layout, model.channels, model.image_size) == ("NHWC", 3, (8, 8))
    assert model.input.elem_type == TensorProto.UINT8


def test_open_size_and_fixed_batch():
    assert read_model(residual_model(image=("N", 3, "H", "W"))).image_size is None
    fixed = read_model(residual_model(image=(1, 3, 8, 8), outputs=(("logits", (1, 4)),)))
    assert (fixed.batch, fixed.shapes["r1"]) == (1, (1, 6, 8, 8))


def test_shapes_that_pass_through_shape_arithmetic_are_known():
    nodes = [
        *residual_nodes()[:-3],
        node("Shape", ["r2"], ["shape"]),
        node("Gather", ["shape", "zero"], ["n"], axis=0),
        node("Unsqueeze", ["n", "zeros"], ["n1"]),
        node("Concat", ["n1", "minus"], ["target"], axis=0),
        node("Reshape", ["r2", "target"], ["rows"]),
        node("Relu", ["rows"], ["r3"]),
        node("Gemm", ["r3", "fc_wide", "fc_bias"], ["logits"], transB=1),
    ]
    weights = weights_of({**RESIDUAL_SHAPES, "fc_wide": (4, 6 * 64)}) | {
        "zero": np.array(0, np.int64),
        "zeros": np.array([0], np.int64),
        "minus": np.array([-1], np.int64),
    }
    assert read_model(build(nodes, weights)).shapes["r3"] == (None, 6 * 64)


def test_shapes_that_inference_gives_up_on_are_read_off_a_run():
    """Slices and integer divisions of shapes, as the TorchScript exporter writes them around attention."""
    nodes = [
        *residual_nodes()[:-3],
        node("Shape", ["r2"], ["shape"]),
        node("Slice", ["shape", "start", "end"], ["channels"]),
        node("Cast", ["channels"], ["real"], to=TensorProto.FLOAT),
        node("Div", ["real", "two"], ["halved"]),
        node("Cast", ["halved"], ["half"], to=TensorProto.INT64),
        node("Concat", ["minus", "half", "fixed"], ["target"], axis=0),
        node("Reshape", ["r2", "target"], ["groups"]),
        node("Relu", ["groups"], ["r3"]),
        node("Reshape", ["r3", "flat_shape"], ["flat"]),
        node("Gemm", ["flat", "fc_wide", "fc_bias"], ["logits"], transB=1),
    ]
    weights = weights_of({**RESIDUAL_SHAPES, "fc_wide": (4, 6 * 64)}) | {
        "start": np.array([1]),
        "end": np.array([2]),
        "two": np.array(2, np.float32),
        "minus": np.array([-1]),
        "fixed": np.array([2, 64]),
        "flat_shape": np.array([-1, 6 * 64]),
    }
    assert read_model(build(nodes, weights)).shapes["r3"] == (None, 3, 2, 64)


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        ([node("Softmax", ["scores"], ["logits"], axis=1)], "softmax"),
        ([node("LogSoftmax", ["scores"], ["logits"], axis=1)], "log_softmax"),
        ([node("Softmax", ["scores"], ["p"], axis=1), node("Log", ["p"], ["logits"])], "log_softmax"),
        ([node("Softmax", ["scores"], ["p"], axis=1), node("Flatten", ["p"], ["logits"])], "softmax"),
        ([node("Identity", ["scores"], ["logits"])], "logits"),
    ],
)
def test_head_is_found_by_data_flow(tail, expected):
    nodes = [*residual_nodes()[:-3], *head("r2", logits="scores"), *tail]
    model = read_model(build(nodes, weights_of(RESIDUAL_SHAPES)))
    assert (model.logits, model.head) == ("logits", expected)


def test_scores_are_taken_before_their_own_softmax():
    nodes = [
        *residual_nodes()[:-3],
        *head("r2", logits="scores"),
        node("Softmax", ["scores"], ["probabilities"], axis=1),
    ]
    outputs = (("probabilities", ("N", 4)), ("scores", ("N", 4)))
    model = read_model(build(nodes, weights_of(RESIDUAL_SHAPES), outputs=outputs))
    assert (model.logits, model.head) == ("scores", "logits")


def _custom_operator():
    proto = residual_model()
    proto.graph.node[1].op_type, proto.graph.node[1].domain = "FusedRelu", "com.microsoft"
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return proto


def _rank_three_scores():
    nodes = [*residual_nodes()[:-3], node("Flatten", ["r2"], ["flat"]), node("ReduceSum", ["flat"], ["logits"])]
    return build(nodes, weights_of(RESIDUAL_SHAPES), outputs=(("logits", (1, 1)),))


def _nan_weight():
    weights = weights_of(RESIDUAL_SHAPES)
    weights["w2"][0, 0, 0, 0] = np.nan
    return build(residual_nodes(), weights)


def _cycle():
    proto = residual_model()
    proto.graph.node[0].input[0] = "r2"
    return proto


def _huge():
    nodes = [
        node("ConstantOfShape", ["dims"], ["zeros"]),
        node("ReduceSum", ["zeros"], ["total"], keepdims=0),
        node("Add", ["image", "total"], ["shifted"]),
        *residual_nodes(),
    ]
    nodes[3].input[0] = "shifted"
    return build(nodes, weights_of(RESIDUAL_SHAPES) | {"dims": np.array([2**20, 2**20], np.int64)})


def _claims_more_than_it_holds():
    proto = residual_model()
    proto.graph.initializer[0].dims[0] = 2**40
    return proto


def _infinite_scores():
    weights = weights_of(RESIDUAL_SHAPES)
    weights["fc_bias"][0] = np.inf
    return build(residual_nodes(), weights)


def _runs_not():
    """Passes the checker; ONNX Runtime refuses a per-channel maximum."""
    proto = residual_model()
    proto.graph.node[1].CopyFrom(node("Clip", ["c1", "", "b_max"], ["r1"]))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((6, 1, 1), np.float32), "b_max"))
    onnx.checker.check_model(proto)
    return proto


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (_custom_operator, UnsupportedGraphError, "com.microsoft:FusedRelu"),
        (_rank_three_scores, InputError, r"class scores \(N, K\) expected"),
        (_nan_weight, InputError, "'w2' holds NaN"),
        (_cycle, InputError, "not a valid ONNX model"),
        (_huge, PatcherError, "2\\^31 elements"),
        (_claims_more_than_it_holds, PatcherError, "."),
        (_infinite_scores, InputError, "not finite on a black image"),
        (_runs_not, UnsupportedGraphError, "cannot run the model"),
        (lambda: residual_model(image=("N", 5, 8, 8)), PatcherError, "1, 3 or 4 channels"),
        (lambda: build([node("Flatten", ["image"], ["logits"])], image=("N",)), InputError, "at least one more"),
    ],
)
def test_refusals_say_why_on_one_line(make, error, message):
    with pytest.raises(error, match=message) as caught:
        read_model(make())
    assert "\n" not in str(caught.value)


def test_wrong_source_type():
    with pytest.raises(InputError, match="found int"):
        read_model(3)


@zoo
@pytest.mark.parametrize("path", zoo_files(), ids=lambda path: path.name)
def test_reads_the_zoo(path):
    model = read_model(path)
    assert (model.num_classes, model.image_size, model.batch, model.logits) == (10, (32, 32), None, "logits")
    assert model.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
