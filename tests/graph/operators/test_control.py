# SPDX-License-Identifier: Apache-2.0
"""Subgraphs and functions."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from patcher.errors import UnsupportedGraphError
from patcher.graph.interpreter import Graph
from tests.graph.oracle import assert_agrees, run_onnxruntime
from tests.tiny_models import build, node

IMAGE = ("N", 3, 8, 8)


def body(name, nodes, outputs, inputs=()):
    return helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(key, kind, shape) for key, kind, shape in inputs],
        [onnx.ValueInfoProto(name=key) for key in outputs],
    )


def branching():
    """Relu where the mean is positive, else a convolution with an outer weight."""
    yes = body("yes", [node("Relu", ["image"], ["yes_out"])], ["yes_out"])
    no = body("no", [node("Conv", ["image", "w"], ["no_out"])], ["no_out"])
    nodes = [
        node("ReduceMean", ["image"], ["mean"], keepdims=0),
        node("Greater", ["mean", "zero"], ["positive"]),
        node("If", ["positive"], ["out"], then_branch=yes, else_branch=no),
    ]
    weights = {"zero": np.float32(0), "w": np.random.default_rng(0).standard_normal((3, 3, 1, 1)).astype(np.float32)}
    return build(nodes, weights, outputs=(("out", IMAGE),))


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_if_takes_the_branch_of_the_values(sign):
    proto = branching()
    x = np.random.default_rng(1).random((2, 3, 8, 8), dtype=np.float32) * sign
    graph = Graph(proto)
    graph.run({"image": torch.from_numpy(-x)})  # the other branch first: nothing of it may stay
    expected = run_onnxruntime(proto, {"image": x}, ["out"])["out"]
    image = torch.from_numpy(x).requires_grad_()
    found = graph.run({"image": image})["out"]
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-5)
    found.sum().backward()
    assert float(image.grad.abs().max()) > 0


def test_a_rewritten_weight_is_seen_in_the_branch():
    x = torch.full((1, 3, 8, 8), -1.0)
    found = Graph(branching()).run({"image": x}, rewrite={"w": torch.zeros_like})["out"]
    assert float(found.abs().max()) == 0


def test_if_on_a_shape_is_decided_on_the_host():
    yes = body("yes", [node("Relu", ["image"], ["yes_out"])], ["yes_out"])
    no = body("no", [node("Neg", ["image"], ["no_out"])], ["no_out"])
    nodes = [
        node("Shape", ["image"], ["shape"]),
        node("Gather", ["shape", "first"], ["batch"]),
        node("Equal", ["batch", "one"], ["single"]),
        node("If", ["single"], ["out"], then_branch=yes, else_branch=no),
    ]
    proto = build(nodes, {"first": np.array(0), "one": np.array(1)}, outputs=(("out", IMAGE),))
    for batch in (1, 2, 1):
        assert_agrees(proto, {"image": np.random.default_rng(2).standard_normal((batch, 3, 8, 8)).astype(np.float32)})


def test_loop_carries_and_collects():
    nodes = [
        node("Identity", ["go"], ["go_on"]),
        node("Mul", ["state", "factor"], ["next"]),
        node("ReduceMean", ["next"], ["seen"], keepdims=0),
    ]
    inputs = [("step", TensorProto.INT64, ()), ("go", TensorProto.BOOL, ()), ("state", TensorProto.FLOAT, IMAGE)]
    loop = body("loop", nodes, ["go_on", "next", "seen"], inputs)
    proto = build(
        [node("Loop", ["count", "", "image"], ["out", "means"], body=loop)],
        {"count": np.array(3), "factor": np.float32(1.5)},
        outputs=(("out", IMAGE), ("means", (3,))),
    )
    x = np.random.default_rng(3).standard_normal((1, 3, 8, 8)).astype(np.float32)
    assert_agrees(proto, {"image": x})
    image = torch.from_numpy(x).requires_grad_()
    Graph(proto).run({"image": image})["out"].sum().backward()
    torch.testing.assert_close(image.grad, torch.full_like(image, 1.5**3))


def test_scan_over_the_rows():
    nodes = [node("Add", ["total", "row"], ["sum"]), node("Identity", ["sum"], ["kept"])]
    inputs = [("total", TensorProto.FLOAT, (1, 3, 8)), ("row", TensorProto.FLOAT, (1, 3, 8))]
    scan = body("scan", nodes, ["sum", "kept"], inputs)
    proto = build(
        [node("Scan", ["start", "image"], ["last", "sums"], body=scan, num_scan_inputs=1, scan_input_axes=[2])],
        {"start": np.zeros((1, 3, 8), np.float32)},
        image=(1, 3, 8, 8),
        outputs=(("last", (1, 3, 8)), ("sums", (8, 1, 3, 8))),
    )
    x = np.random.default_rng(4).standard_normal((1, 3, 8, 8)).astype(np.float32)
    assert_agrees(proto, {"image": x})


def test_an_unknown_operator_in_a_branch_is_refused():
    proto = branching()
    proto.graph.node[2].attribute[0].g.node[0].op_type = "NoSuchOperator"
    with pytest.raises(UnsupportedGraphError, match="NoSuchOperator, opset 17"):
        Graph(proto)


def with_functions():
    """A model with a function of its own: Swish as Sigmoid and Mul, called twice."""
    swish = helper.make_function(
        "local",
        "Swishing",
        ["x"],
        ["y"],
        [node("Sigmoid", ["x"], ["s"]), node("Mul", ["x", "s"], ["y"])],
        [helper.make_opsetid("", 17)],
    )
    nodes = [
        node("Swishing", ["image"], ["once"], domain="local"),
        node("Swishing", ["once"], ["out"], domain="local"),
    ]
    proto = build(nodes, outputs=(("out", IMAGE),))
    proto.functions.append(swish)
    proto.opset_import.append(helper.make_opsetid("local", 1))
    return proto


def test_local_functions_are_inlined_and_outer_names_stay():
    proto = with_functions()
    x = np.random.default_rng(5).standard_normal((2, 3, 8, 8)).astype(np.float32)
    expected = run_onnxruntime(proto, {"image": x}, ["out"])["out"]
    found = Graph(proto).run({"image": torch.from_numpy(x)}, fetch=["once", "out"])
    np.testing.assert_allclose(found["out"].numpy(), expected, atol=1e-6)
    torch.testing.assert_close(found["once"], torch.nn.functional.silu(torch.from_numpy(x)))
    zero = Graph(proto).run({"image": torch.from_numpy(x)}, rewrite={"once": torch.zeros_like})["out"]
    assert float(zero.abs().max()) == 0


def test_an_operator_without_kernel_runs_by_its_definition():
    proto = build(
        [node("CenterCropPad", ["image", "target"], ["out"], axes=[2, 3])],
        {"target": np.array([5, 11])},
        opset=18,
        outputs=(("out", ("N", 3, 5, 11)),),
    )
    assert_agrees(proto, {"image": np.random.default_rng(6).standard_normal((2, 3, 8, 8)).astype(np.float32)})
