# SPDX-License-Identifier: Apache-2.0
"""Which output holds the class scores, and what they are."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import helper, numpy_helper

import patcher
from patcher.errors import InputError, NotApplicableError, UnsupportedGraphError
from patcher.graph.sites import find_sites
from patcher.model.model import read_model
from tests.tiny_models import RESIDUAL_SHAPES, build, head, node, residual_model, residual_nodes, weights_of

_BODY = residual_nodes()[:-3]


def _model(tail, outputs, **further):
    return build([*_BODY, *tail], weights_of(RESIDUAL_SHAPES | further), outputs=outputs)


def _pictures(count=80):
    rng = np.random.default_rng(0)
    return (rng.random((count, 8, 8, 3)) * rng.random((count, 1, 1, 3))).astype(np.float32)


def _single(*tail):
    """One score, as often above as below the middle on `_pictures`."""
    weights = weights_of(RESIDUAL_SHAPES | {"fc": (1, 6), "fc_bias": (1,)})
    nodes = [*_BODY, *head("r2", logits="score")]
    plain = build(nodes, weights, outputs=(("score", ("N", 1)),)).SerializeToString()
    session = onnxruntime.InferenceSession(plain, providers=["CPUExecutionProvider"])
    weights["fc_bias"] -= np.median(session.run(None, {"image": _pictures().transpose(0, 3, 1, 2)})[0])
    return build([*nodes, *tail], weights, outputs=(("logits", ("N", 1)),))


def _embedding_first():
    tail = [*head("r2"), node("Identity", ["flat"], ["embedding"])]
    return _model(tail, (("embedding", ("N", 6)), ("logits", ("N", 4))))


def _two_heads():
    tail = [
        *head("r2"),
        node("Gemm", ["flat", "fc2", "fc2_bias"], ["raw"], transB=1),
        node("Relu", ["raw"], ["second"]),
    ]
    return _model(tail, (("logits", ("N", 4)), ("second", ("N", 5))), fc2=(5, 6), fc2_bias=(5,))


def test_one_score_behind_a_sigmoid_is_two_classes():
    model = read_model(_single(node("Sigmoid", ["score"], ["logits"])))
    assert (model.head, model.num_classes, model.single_score) == ("sigmoid", 2, True)


def test_one_score_without_a_sigmoid_is_refused_with_the_remedy():
    with pytest.raises(InputError, match="export the Sigmoid with it"):
        read_model(_single(node("Identity", ["score"], ["logits"])))


@pytest.mark.parametrize("axes", [[2, 3], [1], [2]])
def test_axes_of_length_1_are_no_matter(axes):
    tail = [*head("r2", logits="flat_scores"), node("Unsqueeze", ["flat_scores"], ["logits"], axes=axes)]
    shape = [4]
    for axis in axes:
        shape.insert(axis - 1, 1)
    model = read_model(
        build([*_BODY, *tail], weights_of(RESIDUAL_SHAPES), opset=12, outputs=(("logits", ("N", *shape)),))
    )
    assert (model.logits, model.num_classes, model.single_score) == ("logits", 4, False)


def test_an_embedding_in_front_of_the_scores_is_no_scores():
    model = read_model(_embedding_first())
    assert (model.logits, model.num_classes, model.other_scores) == ("logits", 4, ())


def test_another_head_is_named_and_left_alone():
    model = read_model(_two_heads())
    assert (model.logits, model.other_scores) == ("logits", ("second",))
    assert {site.tensor for site in find_sites(model)}.isdisjoint({"raw", "second"})


def test_one_fixed_side_is_kept():
    model = read_model(residual_model(image=("N", 3, 8, "W")))
    assert (model.image_size, model.shapes["r1"]) == (None, (None, 6, 8, None))
    nodes = [*_BODY, node("Reshape", ["r2", "rows"], ["kept"]), *head("kept")]
    weights = weights_of(RESIDUAL_SHAPES) | {"rows": np.array([0, 6, 8, -1])}
    assert read_model(build(nodes, weights, image=("N", 3, 8, "W"))).num_classes == 4


def test_the_best_few_scores_are_no_class_scores():
    tail = [*head("r2"), node("TopK", ["logits", "count"], ["values", "indices"])]
    proto = _model(tail, (("values", ("N", 2)),))
    proto.graph.initializer.append(numpy_helper.from_array(np.array([2]), "count"))
    with pytest.raises(InputError, match="class scores"):
        read_model(proto)


def test_a_graph_without_a_name_gets_one():
    proto = residual_model()
    proto.graph.name = ""
    assert read_model(proto).changes == ("a graph without a name called 'graph'",)


@pytest.mark.parametrize("operator", ["BatchNormalization", "Dropout"])
def test_training_mode_is_refused(operator):
    ones = {f"one{index}": np.ones(6, np.float32) for index in range(4)}
    layer = (
        node("BatchNormalization", ["r2", *ones], ["n", "", ""], training_mode=1)
        if operator == "BatchNormalization"
        else node("Dropout", ["r2", "", "on"], ["n"])
    )
    proto = build([*_BODY, layer, *head("n")], weights_of(RESIDUAL_SHAPES) | ones | {"on": np.array(True)})
    with pytest.raises(UnsupportedGraphError, match=f"{operator}.*training mode.*eval"):
        read_model(proto)


def _squeezed():
    tail = [*head("r2", logits="s"), node("Softmax", ["s"], ["p"], axis=1), node("Reshape", ["p", "shape"], ["logits"])]
    proto = _model(tail, (("logits", ("N", 4, 1, 1)),))
    proto.graph.initializer.append(numpy_helper.from_array(np.array([-1, 4, 1, 1]), "shape"))
    return proto


def _weights_in_half():
    """Weights kept in half precision and cast where they are used."""
    proto = residual_model()
    for tensor in proto.graph.initializer:
        value = numpy_helper.to_array(tensor).astype(np.float16)
        proto.graph.node.insert(0, helper.make_node("Cast", [f"{tensor.name}_half"], [tensor.name], to=1))
        tensor.CopyFrom(numpy_helper.from_array(value, f"{tensor.name}_half"))
    return proto


@pytest.mark.parametrize("method", ["unit", "nft"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: _single(node("Sigmoid", ["score"], ["logits"])),
        _squeezed,
        _embedding_first,
        _two_heads,
        _weights_in_half,
    ],
    ids=["single", "four_axes", "embedding", "two_heads", "weights_in_half"],
)
def test_hardened_with_parity(tmp_path, make, method):
    np.savez(tmp_path / "clean.npz", images=_pictures())
    result = patcher.harden(
        make(), clean_dir=tmp_path / "clean.npz", method=method, steps=4, pseudo_labels=True, seed=0
    )
    assert result.verdict == "pass"
    assert result.agreement.value > 0.9


def test_a_second_pass_needs_one_score_a_class(tmp_path):
    np.savez(tmp_path / "clean.npz", images=_pictures())
    model = _single(node("Sigmoid", ["score"], ["logits"]))
    assert "--flag" in patcher.inspect(model).about()["limits"]
    with pytest.raises(NotApplicableError, match="one score a class"):
        patcher.harden(model, clean_dir=tmp_path / "clean.npz", flag=True, pseudo_labels=True)


def test_an_operator_that_the_interpreter_lacks_is_said_beforehand():
    tail = [
        node("Unsqueeze", ["r2", "last"], ["real"]),
        node("DFT", ["real"], ["spectrum"], axis=2),
        node("ReduceMax", ["spectrum"], ["largest"], axes=[4], keepdims=0),
        *head("largest"),
    ]
    found = patcher.inspect(build([*_BODY, *tail], weights_of(RESIDUAL_SHAPES) | {"last": np.array([4])}, opset=17))
    assert not any(item.applies for item in found.methods.values())
    assert "DFT" in found.methods["unit"].reason
