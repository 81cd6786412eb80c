# SPDX-License-Identifier: Apache-2.0
"""Quantised tensors and integer images: right values, and gradients that pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto

from patcher.errors import InputError
from patcher.graph.interpreter import Graph
from tests.graph.oracle import assert_agrees, one_node, run_onnxruntime
from tests.tiny_models import build, head, node, weights_of


def quantised(kind=np.int8):
    """Image and weight quantised and back, a MaxPool in between, a convolution, a head."""
    nodes = [
        node("QuantizeLinear", ["image", "scale", "point"], ["q"]),
        node("MaxPool", ["q"], ["pooled_q"], kernel_shape=[2, 2])
        if kind == np.int8
        else node("Identity", ["q"], ["pooled_q"]),
        node("DequantizeLinear", ["pooled_q", "scale", "point"], ["x"]),
        node("DequantizeLinear", ["w_q", "w_scale", "w_point"], ["w"], axis=0),
        node("Conv", ["x", "w"], ["c"]),
        *head("c"),
    ]
    weights = weights_of({"fc": (4, 6), "fc_bias": (4,)}) | {
        "scale": np.float32(0.05),
        "point": kind(3),
        "w_q": np.random.default_rng(0).integers(-90, 90, (6, 3, 3, 3)).astype(np.int8),
        "w_scale": np.full(6, 0.01, np.float32),
        "w_point": np.zeros(6, np.int8),
    }
    return build(nodes, weights)


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_quantised_graphs_agree(kind):
    x = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32) * 3
    proto = quantised(kind)
    expected = run_onnxruntime(proto, {"image": x}, ["q", "c", "logits"])
    found = Graph(proto).run({"image": torch.from_numpy(x)}, fetch=["q", "c", "logits"])
    for name, value in expected.items():
        np.testing.assert_allclose(found[name].numpy(), value, atol=1e-4, err_msg=name)


def test_gradient_goes_straight_through_rounding_and_stops_at_saturation():
    proto = build(
        [
            node("QuantizeLinear", ["image", "scale", "point"], ["q"]),
            node("DequantizeLinear", ["q", "scale", "point"], ["out"]),
        ],
        {"scale": np.float32(0.1), "point": np.int8(0)},
        outputs=(("out", ("N", 3, 8, 8)),),
    )
    x = torch.full((1, 3, 8, 8), 0.123, requires_grad=True)
    x.data[0, 0] = 100.0
    Graph(proto).run({"image": x})["out"].sum().backward()
    assert x.grad[0, 0].abs().max() == 0
    torch.testing.assert_close(x.grad[0, 1:], torch.ones(2, 8, 8))


def test_a_quantised_output_is_an_integer():
    proto, feed = one_node("QuantizeLinear", [np.array([[0.3, 2.0]], np.float32), np.float32(0.1), np.uint8(4)])
    found = Graph(proto).run({name: torch.from_numpy(np.asarray(value)) for name, value in feed.items()})["out0"]
    assert found.dtype == torch.uint8
    assert found.tolist() == [[7, 24]]


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_scales_along_an_axis(axis):
    x = np.random.default_rng(2).standard_normal((3, 3, 3)).astype(np.float32)
    scale, point = np.array([0.1, 0.2, 0.05], np.float32), np.array([1, 2, 3], np.uint8)
    for operator, value in [("QuantizeLinear", x), ("DequantizeLinear", (x * 9).astype(np.uint8))]:
        proto, feed = one_node(operator, [value, scale, point], axis=axis)
        assert_agrees(proto, feed)


def bytes_model():
    """TensorFlow's habit: a uint8 NHWC image, cast and transposed in the graph."""
    nodes = [
        node("Transpose", ["image"], ["channels_first"], perm=[0, 3, 1, 2]),
        node("Cast", ["channels_first"], ["floats"], to=TensorProto.FLOAT),
        node("Div", ["floats", "range"], ["x"]),
        node("Conv", ["x", "w"], ["c"]),
        *head("c"),
    ]
    weights = weights_of({"w": (6, 3, 3, 3), "fc": (4, 6), "fc_bias": (4,)}) | {"range": np.float32(255)}
    return build(nodes, weights, image=("N", 8, 8, 3), elem_type=TensorProto.UINT8, output_type=TensorProto.FLOAT)


def test_an_image_of_bytes_runs_and_may_be_given_as_floats():
    proto = bytes_model()
    x = np.random.default_rng(3).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    expected = run_onnxruntime(proto, {"image": x}, ["logits"])["logits"]
    graph = Graph(proto)
    np.testing.assert_allclose(graph.run({"image": torch.from_numpy(x)})["logits"].numpy(), expected, atol=1e-5)
    floats = torch.from_numpy(x).float().requires_grad_()
    found = graph.run({"image": floats})["logits"]
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-5)
    found.sum().backward()
    assert float(floats.grad.abs().max()) > 0


def test_integers_that_are_computed_with_stay_integers():
    proto = build(
        [node("Div", ["image", "two"], ["half"]), node("Cast", ["half"], ["out"], to=TensorProto.FLOAT)],
        {"two": np.array(2, np.uint8)},
        elem_type=TensorProto.UINT8,
        output_type=TensorProto.FLOAT,
        outputs=(("out", ("N", 3, 8, 8)),),
    )
    with pytest.raises(InputError, match=r"type torch\.uint8 expected"):
        Graph(proto).run({"image": torch.ones(1, 3, 8, 8)})
    found = Graph(proto).run({"image": torch.full((1, 3, 8, 8), 5, dtype=torch.uint8)})["out"]
    assert float(found.max()) == 2.0


@pytest.mark.parametrize("points", [[], [np.uint8(3)], [np.uint8(3), np.uint8(5)]])
def test_integer_products(points):
    random = np.random.default_rng(4)
    image, weight = (random.integers(0, 256, shape).astype(np.uint8) for shape in [(2, 4, 6, 6), (6, 2, 3, 3)])
    proto, feed = one_node("ConvInteger", [image, weight, *points], pads=[1, 0, 1, 2], group=2, strides=[1, 2])
    assert_agrees(proto, feed)
    proto, feed = one_node("MatMulInteger", [image[0, 0], weight[:6, 0, 0].repeat(2, 1), *points])
    assert_agrees(proto, feed)


def test_dynamic_quantisation_runs_by_its_definition():
    proto, feed = one_node("DynamicQuantizeLinear", [np.linspace(-1, 2, 24, dtype=np.float32)], outputs=3)
    assert_agrees(proto, feed)
