# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from patcher.graph.interpreter import Graph
from tests.graph.decomposed import DECOMPOSED, decomposed
from tests.graph.oracle import assert_agrees, run_onnxruntime
from tests.tiny_models import images

# No ONNX operator computes it.
WITHOUT_KERNEL = ("QuickGELU",)


def _kernels(graph, **options):
    """Operators that run."""
    plan = graph._plan(tuple(options.get("fetch", graph.outputs)), frozenset(options.get("rewrite", ())), frozenset())
    return [step.operator for step, _ in plan.steps]


def _changed(proto, name, value):
    """The model with another constant."""
    for tensor in proto.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(np.array(value, np.float32), name))
    return proto


@pytest.mark.parametrize("name", DECOMPOSED)
@pytest.mark.parametrize("as_nodes", [False, True], ids=["initializers", "Constant nodes"])
def test_one_kernel_computes_what_several_operators_do(name, as_nodes):
    operator, proto = decomposed(name, as_nodes=as_nodes)
    ran = _kernels(Graph(proto))
    wanted = {"GELU": "Gelu", "SiLU": "Swish"}.get(operator, operator)
    assert (wanted in ran) == (operator not in WITHOUT_KERNEL)
    if operator not in WITHOUT_KERNEL:
        assert not {"Erf", "Tanh", "Sigmoid", "HardSigmoid", "Clip", "Min", "Softplus", "Log"} & set(ran)
    assert_agrees(proto, {"image": images()})


def test_the_same_gradients():
    _, proto = decomposed("gelu, half last")
    pixels = torch.from_numpy(images())
    slopes = []
    for fetch in (["logits"], ["logits", "e"]):
        moved = pixels.clone().requires_grad_()
        found = Graph(proto).run({"image": moved}, fetch=fetch)
        slopes.append(torch.autograd.grad(found["logits"].square().sum(), moved)[0])
    torch.testing.assert_close(slopes[0], slopes[1])


@pytest.mark.parametrize("how", ["fetch", "rewrite"])
def test_tensors_inside_are_there_for_who_wants_them(how):
    _, proto = decomposed("gelu, half last")
    graph, feed = Graph(proto), {"image": torch.from_numpy(images())}
    plain = graph.run(feed)["logits"]
    if how == "fetch":
        assert "Erf" in _kernels(graph, fetch=["e"])
        expected = run_onnxruntime(proto, {"image": images()}, ["e"])["e"]
        np.testing.assert_allclose(graph.run(feed, fetch=["e"])["e"].numpy(), expected, atol=1e-5)
    else:
        assert "Erf" in _kernels(graph, rewrite=["e"])
        changed = graph.run(feed, rewrite={"e": lambda value: value * 0})["logits"]
        assert not torch.allclose(changed, plain)
    torch.testing.assert_close(graph.run(feed)["logits"], plain)


def test_a_constant_can_be_rewritten():
    _, proto = decomposed("gelu, half last")
    found = Graph(proto).run({"image": torch.from_numpy(images())}, rewrite={"half": lambda value: value * 0})
    other = Graph(_changed(proto, "half", 0.0)).run({"image": torch.from_numpy(images())})
    torch.testing.assert_close(found["logits"], other["logits"])


@pytest.mark.parametrize(
    ("name", "constant", "value"),
    [("gelu, half last", "half", 0.4), ("gelu, half first", "root", 1.0), ("hardswish by a sixth", "six", 5.0)],
)
def test_other_constants_stay_as_they_are(name, constant, value):
    proto = _changed(decomposed(name)[1], constant, value)
    assert not {"Gelu", "HardSwish"} & set(_kernels(Graph(proto)))
    assert_agrees(proto, {"image": images()})


def test_a_constant_that_adds_an_axis_stays_as_it_is():
    proto = _changed(decomposed("gelu, half last")[1], "half", [[[[[0.5]]]]])
    ran = _kernels(Graph(onnx.shape_inference.infer_shapes(proto)))
    assert "Gelu" not in ran
