# SPDX-License-Identifier: Apache-2.0
"""Models as exporters, converters and toolkits leave them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from patcher.errors import InputError, UnsupportedGraphError
from patcher.model.model import Model, read_model
from patcher.runtime import create_session
from tests.tiny_models import RESIDUAL_SHAPES, build, head, images, node, residual_model, residual_nodes, weights_of


def answers(proto: onnx.ModelProto, name: str = "logits") -> np.ndarray:
    return create_session(proto.SerializeToString()).run([name], {"image": images()})[0]


def assert_same_answers(model: Model, original: onnx.ModelProto) -> None:
    np.testing.assert_allclose(answers(model.proto), answers(original), rtol=1e-5, atol=1e-6)


def test_a_model_in_standard_form_is_left_alone() -> None:
    proto = residual_model()
    model = read_model(proto)
    assert model.changes == ()
    assert model.proto == proto


@pytest.mark.parametrize("batch", [-1, 0])
def test_a_length_below_1_is_open(batch: int) -> None:
    """Paddle2ONNX writes -1; ONNX Runtime runs any batch, and NumPy refuses to make one of -1 images."""
    proto = residual_model(image=(batch, 3, 8, 8), outputs=(("logits", (batch, 4)),))
    model = read_model(proto)
    assert (model.batch, model.image_size) == (None, (8, 8))
    assert model.input.shape == (None, 3, 8, 8)
    assert "2 lengths below 1" in model.changes[0]
    assert answers(model.proto).shape == (3, 4)


def test_open_sides_written_as_minus_1() -> None:
    model = read_model(residual_model(image=(-1, 3, -1, -1)))
    assert (model.batch, model.image_size) == (None, None)


def test_nodes_in_no_order_are_sorted() -> None:
    """What ONNX Runtime's fp16 converter leaves behind; the checker refuses it."""
    original = residual_model()
    proto = onnx.ModelProto.FromString(original.SerializeToString())
    shuffled = [proto.graph.node[index] for index in (6, 2, 0, 5, 4, 3, 1, 7)]
    shuffled = [onnx.NodeProto.FromString(item.SerializeToString()) for item in shuffled]
    del proto.graph.node[:]
    proto.graph.node.extend(shuffled)
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(proto)
    model = read_model(proto)
    assert model.changes == ("nodes sorted by data flow",)
    assert list(model.proto.graph.node) == list(original.graph.node)


def test_the_fp16_converter_of_onnx_runtime() -> None:
    float16 = pytest.importorskip("onnxruntime.transformers.float16")
    proto = float16.convert_float_to_float16(residual_model(), keep_io_types=True)
    assert_close = np.testing.assert_allclose
    assert_close(answers(read_model(proto).proto), answers(residual_model()), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("opset", [7, 8, 9, 10])
def test_old_opsets_are_converted(opset: int) -> None:
    proto = residual_model(opset=opset, ir_version=4)
    model = read_model(proto)
    assert (model.opset, model.changes) == (11, (f"opset {opset} converted to 11",))
    assert_same_answers(model, proto)


@pytest.mark.parametrize(("opset", "ir_version"), [(6, 3), (27, 11)])
def test_other_opsets_are_refused(opset: int, ir_version: int) -> None:
    with pytest.raises(UnsupportedGraphError, match="opset 7 to 26 expected, found"):
        read_model(residual_model(opset=opset, ir_version=ir_version))


def _with_tail(*tail: onnx.NodeProto, outputs: list[onnx.ValueInfoProto]) -> onnx.ModelProto:
    nodes = [*residual_nodes()[:-3], *head("r2"), node("Softmax", ["logits"], ["probabilities"], axis=1), *tail]
    proto = build(nodes, weights_of(RESIDUAL_SHAPES))
    proto.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))
    del proto.graph.output[:]
    proto.graph.output.extend(outputs)
    return proto


def _zip_map() -> onnx.ModelProto:
    names = helper.make_node("ZipMap", ["probabilities"], ["map"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2, 3])
    entry = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    return _with_tail(names, outputs=[helper.make_value_info("map", helper.make_sequence_type_proto(entry))])


def _class_names() -> onnx.ModelProto:
    """Azure Custom Vision: the class with the best score by its name, and the scores as a map."""
    tail = [
        node("ArgMax", ["probabilities"], ["best"], axis=1, keepdims=0),
        helper.make_node("ArrayFeatureExtractor", ["labels", "best"], ["label"], domain="ai.onnx.ml"),
    ]
    proto = _with_tail(*tail, outputs=[])
    proto.graph.output.extend(_zip_map().graph.output)
    proto.graph.node.extend(list(_zip_map().graph.node)[-1:])
    proto.graph.output.append(helper.make_tensor_value_info("label", TensorProto.STRING, ["A", "B"]))
    proto.graph.initializer.append(helper.make_tensor("labels", TensorProto.STRING, [1, 4], list(b"abcd".decode())))
    return proto


@pytest.mark.parametrize("make", [_zip_map, _class_names])
def test_a_tail_that_renames_classes_is_cut_off(make) -> None:
    model = read_model(make())
    assert (model.logits, model.head, model.num_classes) == ("probabilities", "softmax", 4)
    assert "'probabilities'" in model.changes[0]
    assert {entry.domain for entry in model.proto.opset_import} == {""}
    rows = answers(model.proto, "probabilities")
    np.testing.assert_allclose(rows.sum(axis=1), 1, rtol=1e-5)


def test_a_classifier_of_ai_onnx_ml_is_refused_with_the_true_reason() -> None:
    tail = helper.make_node(
        "LinearClassifier", ["flat"], ["label", "scores"], domain="ai.onnx.ml", coefficients=[0.1] * 24,
        classlabels_ints=[0, 1, 2, 3],
    )  # fmt: skip
    proto = _with_tail(tail, outputs=[helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 4])])
    with pytest.raises(UnsupportedGraphError, match="LinearClassifier at or behind operators of ai"):
        read_model(proto)


@pytest.mark.parametrize("operator", ["FusedConv", "QLinearAdd"])
def test_operators_of_a_runtime_are_refused_with_the_remedy(operator: str) -> None:
    proto = residual_model()
    proto.graph.node[1].op_type, proto.graph.node[1].domain = operator, "com.microsoft"
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(UnsupportedGraphError, match=rf"com.microsoft:{operator}.*export the model before any runtime"):
        read_model(proto)


def test_a_conversion_that_changes_the_answers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    other = residual_model(opset=11, ir_version=4)
    other.graph.node[1].op_type = "LeakyRelu"
    monkeypatch.setattr(onnx.version_converter, "convert_version", lambda *_: other)
    with pytest.raises(UnsupportedGraphError, match="answers differently"):
        read_model(residual_model(opset=9, ir_version=4))


def test_a_circle_is_still_refused() -> None:
    proto = residual_model()
    proto.graph.node[0].input[0] = "r2"
    with pytest.raises(InputError, match="not a valid ONNX model"):
        read_model(proto)
