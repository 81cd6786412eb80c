# SPDX-License-Identifier: Apache-2.0
"""LSTM, GRU and RNN against ONNX Runtime; layouts, which it does not know, against the standard's own tests."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import patcher
from benchmarks.architectures import export
from benchmarks.conformance import judge, node_tests
from patcher.errors import UnsupportedGraphError
from patcher.graph.interpreter import Graph
from patcher.graph.sites import find_sites
from patcher.model.model import read_model
from tests.graph.oracle import assert_agrees, assert_near, one_node, run_onnxruntime

STEPS, BATCH, INPUTS, SIZE = 5, 3, 4, 6
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
FUNCTIONS = {"LSTM": 3, "GRU": 2, "RNN": 1}
DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}
OPTIONAL = ("bias", "lengths", "initial", "peepholes")


def layer(operator, direction, *, seed=0, steps=STEPS, **given):
    """A model of one layer with what `given` names, its inputs random, and its feed."""
    rng, gates, passes = np.random.default_rng(seed), GATES[operator], DIRECTIONS[direction]

    def draw(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    arrays = [draw(steps, BATCH, INPUTS), draw(passes, gates * SIZE, INPUTS), draw(passes, gates * SIZE, SIZE)]
    arrays.append(draw(passes, 2 * gates * SIZE) if given.pop("bias", False) else None)
    arrays.append(np.array([steps, 1, 3], np.int32) if given.pop("lengths", False) else None)
    states = 2 if operator == "LSTM" else 1
    arrays += [draw(passes, BATCH, SIZE) for _ in range(states)] if given.pop("initial", False) else [None] * states
    if given.pop("peepholes", False) and operator == "LSTM":
        arrays.append(draw(passes, 3 * SIZE))
    attributes = {"direction": direction, "hidden_size": SIZE, **given}
    return one_node(operator, arrays, outputs=1 + states, constants=(1, 2, 3, 4, 7), **attributes)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("operator", GATES)
def test_every_combination_is_onnxruntimes(operator, direction):
    for count in range(len(OPTIONAL) + 1):
        for names in itertools.combinations(OPTIONAL, count):
            assert_agrees(*layer(operator, direction, **dict.fromkeys(names, True)))


@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_both_kinds_of_gru(direction, lengths):
    for kind in (0, 1):
        assert_agrees(*layer("GRU", direction, bias=True, lengths=lengths, linear_before_reset=kind))


@pytest.mark.parametrize("operator", GATES)
def test_other_activations(operator):
    names = ["Relu", "Sigmoid", "Tanh"][: FUNCTIONS[operator]]
    assert_agrees(*layer(operator, "bidirectional", bias=True, activations=names[::-1] + names))
    proto, _ = layer(operator, "forward", activations=["Softsign"] * len(names))
    with pytest.raises(UnsupportedGraphError, match=rf"operator {operator}.*activations: .*softsign"):
        Graph(proto)


def test_coupled_gates():
    """ONNX Runtime couples the gates with peepholes alone."""
    assert_agrees(*layer("LSTM", "forward", bias=True, peepholes=True, input_forget=1))


def test_a_clip_is_refused():
    with pytest.raises(UnsupportedGraphError, match=r"operator LSTM.*attribute clip is not supported"):
        Graph(layer("LSTM", "forward", clip=0.5)[0])


def test_the_standards_own_tests():
    verdicts = [judge(test) for test in node_tests() if {n.op_type for n in test.model.graph.node} & set(GATES)]
    assert len(verdicts) == 18
    assert [verdict.test for verdict in verdicts if verdict.outcome != "passed"] == []


@pytest.mark.parametrize("names", [(), ("lengths", "peepholes")], ids=["kernel", "loop"])
@pytest.mark.parametrize("operator", GATES)
def test_gradients_are_those_of_finite_differences(operator, names):
    proto, feed = layer(operator, "bidirectional", steps=3, bias=True, initial=True, **dict.fromkeys(names, True))
    graph = Graph(proto, dtype=torch.float64)
    others = {name: torch.from_numpy(value) for name, value in feed.items() if name != "in0"}

    def run(x):
        return tuple(graph.run({"in0": x, **others}).values())

    x = torch.from_numpy(feed["in0"].astype(np.float64)).requires_grad_()
    assert torch.autograd.gradcheck(run, (x,))


class Recurrent(nn.Module):
    """Convolutions, columns as a sequence, a recurrent layer, its last step."""

    def __init__(self, kind, **options):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.layer = kind(32, 8, bidirectional=True, **options)
        self.hidden, self.out = nn.Linear(16, 12), nn.Linear(12, 5)
        # Large weights, so that pictures get different classes and no near ties.
        for part in (self.conv, self.layer, self.hidden, self.out):
            for name, values in part.named_parameters():
                nn.init.normal_(values, std=0.5 if "weight" in name else 0.01)

    def forward(self, image):
        y = self.conv(image).relu()
        y = self.layer(y.flatten(1, 2).permute(2, 0, 1))[0][-1]
        return self.out(self.hidden(y).relu())


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize(("exporter", "opset"), [("torchscript", 13), ("dynamo", 18)])
def test_layers_of_pytorch(kind, exporter, opset):
    module, images = Recurrent(kind).eval(), torch.rand(2, 3, 8, 8)
    proto = export(module, images, exporter, opset)
    name = proto.graph.input[0].name
    found = Graph(proto).run({name: images})[proto.graph.output[0].name]
    assert_near(found, module(images).detach().numpy(), 1e-5)
    assert_near(
        found, next(iter(run_onnxruntime(proto, {name: images.numpy()}, [proto.graph.output[0].name]).values())), 1e-5
    )


@pytest.mark.parametrize("method", ["unit", "nft"])
def test_a_recurrent_classifier_is_hardened_with_parity(tmp_path, method):
    rng = np.random.default_rng(0)
    images = (rng.random((80, 8, 8, 3)) * rng.random((80, 1, 1, 3))).astype(np.float32)
    np.savez(tmp_path / "clean.npz", images=images)
    proto = export(Recurrent(nn.LSTM).eval(), torch.rand(2, 3, 8, 8), "torchscript", 17)
    assert len(find_sites(read_model(proto))) >= 3
    result = patcher.harden(
        proto, clean_dir=tmp_path / "clean.npz", method=method, steps=3, pseudo_labels=True, epsilon=0.2
    )
    assert result.verdict == "pass"
    assert result.agreement.value > 0.8


def test_inspect_says_that_an_activation_is_not_known():
    proto = export(Recurrent(nn.LSTM).eval(), torch.rand(2, 3, 8, 8), "torchscript", 17)
    (node,) = (node for node in proto.graph.node if node.op_type == "LSTM")
    node.attribute.append(onnx.helper.make_attribute("activations", ["Sigmoid", "Tanh", "Softsign"] * 2))
    methods = patcher.inspect(proto).methods
    assert not any(item.applies for item in methods.values())
    assert "activations: 6 of sigmoid, tanh, relu expected" in methods["unit"].reason
