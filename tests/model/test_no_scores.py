# SPDX-License-Identifier: Apache-2.0
"""Outputs that are no class scores are refused with the true reason; --scores chooses among those that are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.architectures import export
from patcher.errors import InputError
from patcher.model.model import read_model
from tests.tiny_models import RESIDUAL_SHAPES, build, head, node, residual_nodes, weights_of

_BODY = residual_nodes()[:-3]


def _model(tail, outputs, constants=None, **further):
    return build([*_BODY, *tail], weights_of(RESIDUAL_SHAPES | further) | (constants or {}), outputs=outputs, opset=17)


def _row(*tail, **arguments):
    """A model whose one output is made of `embedding`, the last layer's row of four."""
    return _model([*head("r2", logits="embedding"), *tail], (("out", ("N", 4)),), **arguments)


_EPSILON = {"epsilon": np.array(1e-12, np.float32), "two": np.array(2.0, np.float32), "axis": np.array([1])}
_NORMS = {
    "LpNormalization": [node("LpNormalization", ["embedding"], ["out"], axis=1, p=2)],
    "LayerNormalization": [node("LayerNormalization", ["embedding", "gain"], ["out"])],
    "torch": [
        node("ReduceL2", ["embedding"], ["norm"], axes=[1], keepdims=1),
        node("Clip", ["norm", "epsilon"], ["safe"]),
        node("Shape", ["embedding"], ["shape"]),
        node("Expand", ["safe", "shape"], ["wide"]),
        node("Div", ["embedding", "wide"], ["out"]),
    ],
    "squares": [
        node("Mul", ["embedding", "embedding"], ["squared"]),
        node("ReduceMean", ["squared"], ["mean"], axes=[1], keepdims=1),
        node("Add", ["mean", "epsilon"], ["safe"]),
        node("Sqrt", ["safe"], ["root"]),
        node("Reciprocal", ["root"], ["scale"]),
        node("Mul", ["scale", "embedding"], ["unit"]),
        node("Mul", ["unit", "gain"], ["out"]),
    ],
    "power": [
        node("Identity", ["embedding"], ["same"]),
        node("Pow", ["same", "two"], ["squared"]),
        node("ReduceSum", ["squared", "axis"], ["total"], keepdims=1),
        node("Sqrt", ["total"], ["root"]),
        node("Div", ["embedding", "root"], ["out"]),
    ],
}


@pytest.mark.parametrize("form", _NORMS)
def test_an_embedding_of_length_1_is_no_scores(form):
    with pytest.raises(InputError, match=r"'out' \[1, 4\] is divided by its own norm.*--scores NAME"):
        read_model(_row(*_NORMS[form], constants=_EPSILON, gain=(4,)))


@pytest.mark.parametrize("dynamo", [False, True])
def test_normalize_of_pytorch_is_known(dynamo):
    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = torch.nn.Conv2d(3, 6, 3), torch.nn.Linear(6, 5)

        def forward(self, image):
            return torch.nn.functional.normalize(self.fc(self.conv(image).relu().mean((2, 3))))

    proto = export(Encoder().eval(), torch.rand(2, 3, 8, 8), "dynamo" if dynamo else "torchscript", 18)
    with pytest.raises(InputError, match="divided by its own norm"):
        read_model(proto)


def test_scores_of_a_normalised_embedding_are_scores():
    """A cosine classifier; and a softmax written out divides by a sum, too."""
    cosine = [node("LpNormalization", ["embedding"], ["unit"], axis=1, p=2), node("MatMul", ["unit", "w"], ["out"])]
    assert read_model(_row(*cosine, w=(4, 4))).num_classes == 4
    softmax = [
        node("Exp", ["embedding"], ["e"]),
        node("ReduceSum", ["e", "axis"], ["total"], keepdims=1),
        node("Div", ["e", "total"], ["out"]),
    ]
    assert read_model(_row(*softmax, constants={"axis": np.array([1])})).num_classes == 4


def _projection(bias):
    tail = [
        node("Reshape", ["r2", "flat"], ["rows"]),
        node("Transpose", ["rows"], ["tokens"], perm=[0, 2, 1]),
        node("ReduceMean", ["tokens"], ["pooled"], axes=[1], keepdims=0),
        node("Gemm", ["pooled", "fc", *(["fc_bias"] if bias else [])], ["out"], transB=1),
    ]
    outputs = (("out", ("N", 4)), ("tokens", ("N", 64, 6)))
    return _model(tail, outputs, constants={"flat": np.array([0, 6, 64])})


def test_a_projection_of_features_is_an_embedding_unless_the_user_says_otherwise():
    with pytest.raises(InputError, match=r"'out'.*projection without bias of 'tokens'.*an embedding"):
        read_model(_projection(bias=False))
    assert read_model(_projection(bias=False), scores="out").num_classes == 4
    assert read_model(_projection(bias=True)).logits == "out"


def test_a_score_for_each_box_is_no_class_score():
    tail = [
        *head("r2", logits="scores"),
        node("Gemm", ["flat", "wide", "wide_bias"], ["sides"], transB=1),
        node("Reshape", ["sides", "shape"], ["boxes"]),
    ]
    proto = _model(
        tail,
        (("scores", ("N", 4)), ("boxes", ("N", 4, 4))),
        constants={"shape": np.array([0, 4, 4])},
        wide=(16, 6),
        wide_bias=(16,),
    )
    with pytest.raises(InputError, match=r"'scores' .* has a score for each of the 4 boxes of 'boxes'"):
        read_model(proto)


@pytest.mark.parametrize(
    ("tail", "shape", "reason"),
    [
        ([node("Identity", ["r2"], ["out"])], ("N", 6, 8, 8), "is a map with values for each place"),
        ([node("ReduceMean", ["r2"], ["out"], axes=[2], keepdims=0)], ("N", 6, 8), "holds 6 x 8 values an image"),
        (
            [
                node("ReduceMean", ["r2"], ["means"], axes=[2], keepdims=0),
                node("Transpose", ["means"], ["out"], perm=[2, 0, 1]),
            ],
            (8, "N", 6),
            "has 8 rows for one image: its first axis counts something else",
        ),
        ([node("ReduceMean", ["r2"], ["out"], axes=[1, 2, 3], keepdims=0)], ("N",), "has no axis of classes"),
        (
            [*head("r2", logits="row"), node("ArgMax", ["row"], ["out"], axis=1, keepdims=1)],
            ("N", 1),
            "holds no floats",
        ),
    ],
    ids=["map", "rows", "sequence", "vector", "labels"],
)
def test_the_shape_says_why(tail, shape, reason):
    proto = _model(tail, (("out", shape),))
    if reason == "holds no floats":
        proto.graph.output[0].type.tensor_type.elem_type = 7
    with pytest.raises(InputError, match=reason):
        read_model(proto)


def test_scores_must_be_an_output_that_can_hold_them():
    maps = _model([*head("r2"), node("Identity", ["r2"], ["map"])], (("logits", ("N", 4)), ("map", ("N", 6, 8, 8))))
    with pytest.raises(
        InputError, match=r"--scores: an output of the model \('logits', 'map'\) expected, found 'flat'"
    ):
        read_model(maps, scores="flat")
    with pytest.raises(InputError, match=r"--scores: 'map'.*is a map"):
        read_model(maps, scores="map")
