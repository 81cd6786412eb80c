# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from patcher.errors import InputError
from patcher.graph.embedding import find_embedding
from patcher.model.inputs import pack, unpack
from patcher.model.model import read_model
from tests.tiny_models import build, node, residual_model

SHAPES = st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple), min_size=1, max_size=3)


def text_model(batch="N", mask_type=TensorProto.INT64):
    """Token ids and mask ``(N, 5)`` to three scores: the mean vector of the words that are there."""
    rng = np.random.default_rng(0)
    table, weight = rng.normal(size=(11, 4)).astype(np.float32), rng.normal(size=(4, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["vectors"]),
        helper.make_node("Cast", ["mask"], ["there"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["there", "axis"], ["column"]),
        helper.make_node("Mul", ["vectors", "column"], ["kept"]),
        helper.make_node("ReduceMean", ["kept"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["mean", "weight"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["positive"]),
        helper.make_node("MatMul", ["positive", "last"], ["scores"]),
    ]
    constants = {
        "table": table,
        "axis": np.array([2]),
        "weight": weight,
        "last": rng.normal(size=(3, 3)).astype(np.float32),
    }
    inputs = [
        helper.make_tensor_value_info("ids", TensorProto.INT64, [batch, 5]),
        helper.make_tensor_value_info("mask", mask_type, [batch, 5]),
    ]
    graph = helper.make_graph(
        nodes,
        "text",
        inputs,
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 3])],
        [helper.make_tensor(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape, value.flatten())
         for name, value in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@given(SHAPES, st.integers(1, 3))
def test_what_is_packed_is_unpacked(shapes: list[tuple[int, ...]], rows: int) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 9, (rows, *shape)).astype(np.float32) for shape in shapes]
    packed = pack(arrays)
    for form in (packed, torch.from_numpy(packed)):
        for wanted, found in zip(arrays, unpack(form, shapes), strict=True):
            np.testing.assert_array_equal(np.asarray(found), wanted)


def test_several_inputs_are_fed_by_name_in_their_own_types() -> None:
    model = read_model(text_model())
    assert (model.kind, model.layout, model.input_names) == ("tokens", "array", ("ids", "mask"))
    assert model.carried_shape == (2, 5)
    feed = model.feed(np.ones((3, 2, 5), np.float32))
    assert [(name, value.shape, value.dtype) for name, value in feed.items()] == [
        ("ids", (3, 5), np.int64),
        ("mask", (3, 5), np.int64),
    ]


def test_the_embedding_is_found_by_data_flow() -> None:
    found = find_embedding(read_model(text_model()))
    assert found is not None
    assert (found.tensor, found.table, found.words) == ("vectors", "table", 11)
    assert find_embedding(read_model(residual_model())) is None


def test_a_table_is_an_array_and_a_picture_stays_one() -> None:
    table = build([node("Flatten", ["image"], ["logits"])], image=("N", 4), outputs=(("logits", ("N", 4)),))
    assert (read_model(table).kind, read_model(table).row_shapes) == ("array", ((4,),))
    assert read_model(residual_model()).kind == "picture"


@pytest.mark.parametrize(
    ("proto", "message"),
    [
        (text_model(mask_type=TensorProto.STRING), "floats, ids or masks expected"),
        (text_model(mask_type=TensorProto.DOUBLE), None),
    ],
)
def test_types_of_inputs(proto, message: str | None) -> None:
    if message is None:
        assert read_model(proto).kind == "tokens"
        return
    with pytest.raises(InputError, match=message):
        read_model(proto)
