# SPDX-License-Identifier: Apache-2.0
"""Folded bounds: the same answers as the nodes and as torch, and no node where none is needed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patcher.export.apply import apply_patch
from patcher.export.fold.fold import fold_bounds
from patcher.export.parity.parity import run_model
from patcher.graph.sites import find_sites
from patcher.model.model import read_model
from patcher.patch import Patch, UpperBound
from tests.export.random_networks import networks
from tests.tiny_models import RESIDUAL_SHAPES, build, head, images, node, residual_model, weights_of, zoo, zoo_files


def fold(proto, bounds):
    """The node form, and the folded one with what is said of it."""
    model = read_model(proto)
    corrections = tuple(UpperBound(name, np.asarray(bound, np.float32)) for name, bound in bounds.items())
    nodes = apply_patch(model, Patch("unit", model.sha256, corrections))
    before = nodes.SerializeToString(deterministic=True)
    folded = fold_bounds(nodes, model, list(bounds))
    assert nodes.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(folded.model, full_check=True)
    return model, nodes, folded


def largest_difference(model, nodes, folded, inputs):
    """Over all outputs and both levels, relative to each output's scale."""
    found = 0.0
    for level in ("disabled", "all"):
        wanted = run_model(nodes, model, [inputs], optimization=level)
        given = run_model(folded, model, [inputs], optimization=level)
        for name, value in wanted.items():
            scale = max(np.abs(value.astype(np.float64)).max(), 1e-6)
            found = max(found, np.abs(value.astype(np.float64) - given[name].astype(np.float64)).max() / scale)
    return found


def operators(proto):
    return Counter(item.op_type for item in proto.graph.node)


def per_channel(count, *, seed=0, low=0.05, high=1.0):
    return np.random.default_rng(seed).uniform(low, high, (1, count, 1, 1)).astype(np.float32)


def random_bounds(proto, seed, zeros):
    """Per channel bounds for every activation site, some of them 0."""
    model, rng, bounds = read_model(proto), np.random.default_rng(seed), {}
    for site in find_sites(model):
        if site.kind == "activation":
            shape = [1] * len(site.shape)
            shape[site.channel_axis] = site.channels
            bound = rng.uniform(0.02, 1.0, shape)
            if zeros:
                bound[rng.random(shape) < 0.2] = 0
            bounds[site.tensor] = bound if rng.random() < 0.9 else rng.uniform(0.1, 1.0)
    return bounds


@settings(max_examples=150, deadline=None)
@given(proto=networks(), seed=st.integers(0, 1000), zeros=st.booleans())
def test_random_networks_answer_alike_folded_as_nodes_and_in_torch(proto, seed, zeros):
    torch = pytest.importorskip("torch")
    from patcher.graph.interpreter import Graph

    bounds = random_bounds(proto, seed, zeros)
    model, nodes, folded = fold(proto, bounds)
    pixels = images(3)
    assert largest_difference(model, nodes, folded.model, pixels) <= 1e-4
    rewrite = {
        name: (lambda value, bound=bound: torch.minimum(value, torch.tensor(bound, dtype=torch.float32)))
        for name, bound in bounds.items()
    }
    wanted = Graph(model).run({"image": torch.from_numpy(pixels)}, rewrite=rewrite)["logits"].numpy()
    found = run_model(folded.model, model, [pixels])["logits"]
    np.testing.assert_allclose(found, wanted, atol=1e-4 * max(np.abs(wanted).max(), 1e-6))


@settings(max_examples=40, deadline=None)
@given(proto=networks(dtype=np.float16), seed=st.integers(0, 1000), zeros=st.booleans())
def test_random_networks_in_half_precision(proto, seed, zeros):
    model, nodes, folded = fold(proto, random_bounds(proto, seed, zeros))
    assert largest_difference(model, nodes, folded.model, images(3, dtype=np.float16)) <= 2e-2


def chain(*, activation="Relu", normalization=False, producer_bias=True):
    """Conv (and BatchNormalization), activation, Conv, Relu, head."""
    extra = {"w2": (6, 6, 3, 3), "b1": (6,), "gamma": (6,), "beta": (6,), "mean": (6,)}
    weights = weights_of({"w1": (6, 3, 3, 3), "fc": (4, 6), "fc_bias": (4,), **extra})
    weights |= {"var": np.full(6, 0.5, np.float32), "zero": np.float32(0), "six": np.float32(6)}
    made = "n1" if normalization else "c1"
    nodes = [node("Conv", ["image", "w1", *(["b1"] if producer_bias else [])], ["c1"], pads=[1] * 4)]
    if normalization:
        nodes.append(node("BatchNormalization", ["c1", "gamma", "beta", "mean", "var"], ["n1"]))
    nodes.append(node("Relu", [made], ["r1"]) if activation == "Relu" else node("Clip", [made, "zero", "six"], ["r1"]))
    nodes += [node("Conv", ["r1", "w2"], ["c2"], pads=[1] * 4), node("Relu", ["c2"], ["r2"]), *head("r2")]
    used = {name for item in nodes for name in item.input}
    return build(nodes, {key: value for key, value in weights.items() if key in used})


@pytest.mark.parametrize("producer_bias", [True, False])
@pytest.mark.parametrize("normalization", [True, False])
@pytest.mark.parametrize("activation", ["Relu", "ReLU6"])
def test_a_chain_is_left_with_clips_alone(activation, normalization, producer_bias):
    proto = chain(activation=activation, normalization=normalization, producer_bias=producer_bias)
    model, nodes, folded = fold(proto, {"r1": per_channel(6), "r2": per_channel(6, seed=1)})
    assert {site.form for site in folded.sites} == {"folded"}
    assert folded.passes == 0
    wanted = operators(proto) - Counter({"Relu": 2}) + Counter({"Clip": 2 if activation == "Relu" else 1})
    assert operators(folded.model) == wanted
    assert largest_difference(model, nodes, folded.model, images()) <= 1e-5


def test_weights_are_replaced_not_added():
    model, _, folded = fold(chain(), {"r1": per_channel(6), "r2": per_channel(6)})
    names = {item.name for item in folded.model.graph.initializer}
    assert not names & {"w1", "w2", "b1", "fc"}
    assert "fc_bias" in names
    assert folded.model.ByteSize() < model.proto.ByteSize() + 1000
    assert [item for item in folded.model.graph.input] == [item for item in model.proto.graph.input]


def test_clip_between_zero_and_one_and_hard_sigmoid_behind_a_sum():
    _, _, folded = fold(residual_model(), {"r1": per_channel(6), "r2": per_channel(6, seed=1)})
    found = operators(folded.model)
    assert (found["Clip"], found["HardSigmoid"], found["BatchNormalization"], found["Min"]) == (1, 1, 1, 0)
    assert folded.rescaled == ("r1",)
    sigmoid = next(item for item in folded.model.graph.node if item.op_type == "HardSigmoid")
    assert {entry.name: entry.f for entry in sigmoid.attribute} == {"alpha": 1.0, "beta": 0.0}


def test_bounds_shared_along_a_residual_stream_need_no_rescaling():
    shared = per_channel(6)
    model, nodes, folded = fold(residual_model(), {"r1": shared, "r2": shared})
    assert folded.passes == 0
    assert operators(folded.model)["BatchNormalization"] == 0
    assert largest_difference(model, nodes, folded.model, images()) <= 1e-5


def test_a_scale_follows_a_sum_that_no_bound_follows():
    """Stem Relu, then a residual sum without activation, then a convolution: nothing to pay."""
    nodes = [
        node("Conv", ["image", "w1", "b1"], ["c1"], pads=[1] * 4),
        node("Relu", ["c1"], ["r1"]),
        node("Conv", ["r1", "w2"], ["c2"], pads=[1] * 4),
        node("Add", ["c2", "r1"], ["sum"]),
        *head("sum"),
    ]
    model, with_nodes, folded = fold(build(nodes, weights_of(RESIDUAL_SHAPES)), {"r1": per_channel(6)})
    assert folded.passes == 0
    assert largest_difference(model, with_nodes, folded.model, images()) <= 1e-5


def test_channels_with_bound_zero_are_removed_weights():
    bound = per_channel(6)
    bound[0, 2] = 0
    model, nodes, folded = fold(chain(), {"r1": bound})
    weights = {item.name: onnx.numpy_helper.to_array(item) for item in folded.model.graph.initializer}
    assert not weights["w1_folded"][2].any()
    assert weights["b1_folded"][2] == 0
    assert weights["w1_folded"][[0, 1, 3, 4, 5]].all()
    assert largest_difference(model, nodes, folded.model, images()) <= 1e-5


def test_channels_with_bound_zero_behind_a_sum():
    bound = per_channel(6)
    bound[0, 2] = 0
    model, nodes, folded = fold(residual_model(), {"r2": bound})
    assert folded.sites[0].form == "folded"
    assert largest_difference(model, nodes, folded.model, images()) <= 1e-5


ELEMENT = np.full((1, 6, 8, 8), 0.5)


@pytest.mark.parametrize(
    ("bound", "reason"),
    [
        (ELEMENT + np.random.default_rng(0).random((1, 6, 8, 8)), "element"),
        (np.full((1, 6, 1, 1), np.inf), "infinite"),
    ],
)
def test_bounds_that_keep_their_node(bound, reason):
    model, nodes, folded = fold(chain(), {"r1": bound, "r2": per_channel(6)})
    assert [site.form for site in folded.sites] == ["node", "folded"]
    assert reason in folded.sites[0].reason
    assert operators(folded.model)["Min"] == 1
    assert largest_difference(model, nodes, folded.model, images()) <= 1e-5


def test_a_bounded_output_of_the_graph_keeps_its_node_and_its_values():
    proto = residual_model(outputs=(("logits", ("N", 4)), ("r1", ("N", 6, 8, 8))))
    model, nodes, folded = fold(proto, {"r1": per_channel(6), "r2": per_channel(6, seed=1)})
    assert [site.form for site in folded.sites] == ["node", "folded"]
    assert "output of the graph" in folded.sites[0].reason
    assert largest_difference(model, nodes, folded.model, images()) <= 1e-5


def test_an_activation_that_is_not_homogeneous_keeps_its_node():
    proto = chain()
    proto.graph.node[1].CopyFrom(node("HardSwish", ["c1"], ["r1"]))
    _, _, folded = fold(proto, {"r1": per_channel(6), "r2": per_channel(6)})
    assert folded.sites[0].reason == "HardSwish is not positively homogeneous"


def test_a_reader_that_is_not_homogeneous_keeps_the_node():
    nodes = [
        node("Conv", ["image", "w1"], ["c1"], pads=[1] * 4),
        node("Relu", ["c1"], ["r1"]),
        node("Tanh", ["r1"], ["t1"]),
        *head("t1"),
    ]
    _model, _, folded = fold(
        build(nodes, weights_of({"w1": (6, 3, 3, 3), "fc": (4, 6), "fc_bias": (4,)})), {"r1": per_channel(6)}
    )
    assert "Tanh reads 'r1'" in folded.sites[0].reason
    assert folded.passes == 1


def test_half_precision_refuses_bounds_beyond_its_range():
    tiny = per_channel(6)
    tiny[0, 0] = 1e-4
    _, _, folded = fold(residual_model(dtype=np.float16), {"r1": tiny, "r2": per_channel(6)})
    assert [site.form for site in folded.sites] == ["node", "folded"]
    assert "half precision" in folded.sites[0].reason


def test_half_precision_refuses_weights_beyond_its_range():
    proto = residual_model(dtype=np.float16)
    weight = next(item for item in proto.graph.initializer if item.name == "w1")
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0] = 3e4
    weight.CopyFrom(onnx.numpy_helper.from_array(values, "w1"))
    _, _, folded = fold(proto, {"r1": np.full((1, 6, 1, 1), 0.25), "r2": per_channel(6)})
    assert [site.form for site in folded.sites] == ["node", "folded"]
    assert "leave the range" in folded.sites[0].reason


def test_a_shared_weight_gets_a_value_for_each_reader():
    nodes = [
        node("Conv", ["image", "w1", "b1"], ["c1"], pads=[1] * 4),
        node("Relu", ["c1"], ["r1"]),
        node("Conv", ["r1", "w2"], ["c2"], pads=[1] * 4),
        node("Relu", ["c2"], ["r2"]),
        node("Conv", ["r2", "w2"], ["c3"], pads=[1] * 4),
        *head("c3"),
    ]
    model, with_nodes, folded = fold(
        build(nodes, weights_of(RESIDUAL_SHAPES)), {"r1": per_channel(6), "r2": per_channel(6, seed=3)}
    )
    assert folded.passes == 0
    assert largest_difference(model, with_nodes, folded.model, images()) <= 1e-5


@zoo
@pytest.mark.parametrize("path", zoo_files(), ids=lambda path: path.stem)
def test_every_model_of_the_zoo_folds_whole(path):
    model = read_model(path)
    sites = [site for site in find_sites(model) if site.kind == "activation"]
    bounds = {site.tensor: per_channel(site.channels, seed=index) for index, site in enumerate(sites)}
    model, nodes, folded = fold(model.proto, bounds)
    assert {site.form for site in folded.sites} == {"folded"}
    # Five of the eight blocks have an identity on their skip.
    assert len(folded.rescaled) == 5
    assert largest_difference(model, nodes, folded.model, images(4, (3, 32, 32))) <= 1e-4
