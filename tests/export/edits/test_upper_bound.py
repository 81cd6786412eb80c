# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from patcher.errors import InputError, UnsupportedGraphError
from patcher.export import apply_patch, check_parity, neutral_patch
from patcher.graph.sites import find_sites
from patcher.model.model import read_model
from patcher.patch import Affine, Patch, UpperBound
from patcher.runtime import create_session
from tests.tiny_models import RESIDUAL_SHAPES, build, images, node, residual_model, residual_nodes, weights_of


def _patch(model, bounds):
    corrections = tuple(UpperBound(key, np.asarray(value, np.float32)) for key, value in bounds.items())
    return Patch("unit", model.sha256, corrections)


def _run(proto, feed, fetch, level="all"):
    """Run a model and read any of its tensors."""
    proto = onnx.ModelProto.FromString(proto.SerializeToString())
    known = {value.name for value in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in fetch if name not in known)
    session = create_session(proto.SerializeToString(), optimization=level, threads=1)
    return dict(zip(fetch, session.run(list(fetch), feed), strict=True))


CHANNEL = np.linspace(0.1, 1.5, 6).reshape(1, 6, 1, 1)
ELEMENT = np.random.default_rng(1).random((1, 6, 8, 8))
BOUNDS = {"scalar": 0.7, "channel": CHANNEL, "element": ELEMENT}


@pytest.mark.parametrize("level", ["disabled", "all"])
@pytest.mark.parametrize("bound", BOUNDS.values(), ids=BOUNDS)
@pytest.mark.parametrize("opset", [11, 12, 13, 17, 21])
def test_the_bound_holds_for_every_consumer(bound, opset, level):
    model = read_model(residual_model(opset=opset))
    hardened = apply_patch(model, _patch(model, {"r1": bound, "r2": bound}))
    onnx.checker.check_model(hardened, full_check=True)
    found = _run(hardened, {"image": images()}, ["r1_unbounded", "r1", "c2", "sum", "r2", "logits"], level)
    expected = np.minimum(found["r1_unbounded"], np.float32(bound))
    assert (found["r1_unbounded"] > expected).any()
    np.testing.assert_array_equal(found["r1"], expected)
    # The residual sum and the next convolution both read the bounded value.
    np.testing.assert_allclose(found["sum"], found["c2"] + expected, rtol=1e-6)
    assert (found["r2"] <= np.float32(bound)).all()


def test_operators_and_interface():
    proto = residual_model()
    model = read_model(proto)
    hardened = apply_patch(model, _patch(model, {"r1": 0.5, "r2": CHANNEL}))
    added = [item.op_type for item in hardened.graph.node if item not in list(proto.graph.node)]
    assert sorted(added) == ["Clip", "Min", "Relu", "Relu"]
    assert hardened.graph.input == proto.graph.input
    assert hardened.graph.output == proto.graph.output
    assert (hardened.ir_version, hardened.opset_import) == (proto.ir_version, proto.opset_import)
    assert list(hardened.graph.initializer)[: len(proto.graph.initializer)] == list(proto.graph.initializer)
    assert model.proto == proto


def test_same_bytes_each_time():
    model = read_model(residual_model())
    patch = _patch(model, {"r1": CHANNEL})
    first, second = (apply_patch(model, patch).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_a_bounded_graph_output_keeps_its_name():
    proto = residual_model(outputs=(("logits", ("N", 4)), ("r1", ("N", 6, 8, 8))))
    model = read_model(proto)
    hardened = apply_patch(model, _patch(model, {"r1": CHANNEL}))
    assert [value.name for value in hardened.graph.output] == ["logits", "r1"]
    assert (_run(hardened, {"image": images()}, ["r1"])["r1"] <= np.float32(CHANNEL)).all()


def test_half_precision_stays_half_precision():
    model = read_model(residual_model(dtype=np.float16))
    hardened = apply_patch(model, _patch(model, {"r1": CHANNEL, "r2": 0.5}))
    assert {item.data_type for item in hardened.graph.initializer} == {TensorProto.FLOAT16}
    found = _run(hardened, {"image": images(dtype=np.float16)}, ["r1_unbounded", "r1", "r2"])
    expected = np.minimum(found["r1_unbounded"], CHANNEL.astype(np.float16))
    np.testing.assert_array_equal(found["r1"], expected)
    assert found["r2"].dtype == np.float16
    assert found["r2"].max() <= 0.5


def test_a_bound_beyond_half_precision_becomes_infinite():
    model = read_model(residual_model(dtype=np.float16))
    hardened = apply_patch(model, _patch(model, {"r1": np.full((1, 6, 1, 1), 1e30)}))
    original = _run(model.proto, {"image": images(dtype=np.float16)}, ["logits"])
    np.testing.assert_array_equal(
        _run(hardened, {"image": images(dtype=np.float16)}, ["logits"])["logits"], original["logits"]
    )


@pytest.mark.parametrize("bound", [0.7, CHANNEL], ids=["scalar", "channel"])
def test_bfloat16_goes_through_float32(bound):
    """ONNX Runtime has no bfloat16 Relu on the CPU, so the model casts back and forth around it."""
    nodes = residual_nodes()
    nodes[1] = node("Relu", ["c1"], ["r0"])
    nodes[2:2] = [
        node("Cast", ["r0"], ["narrow"], to=TensorProto.BFLOAT16),
        node("Cast", ["narrow"], ["r1"], to=TensorProto.FLOAT),
    ]
    model = read_model(build(nodes, weights_of(RESIDUAL_SHAPES)))
    assert model.elem_types["narrow"] == TensorProto.BFLOAT16
    hardened = apply_patch(model, _patch(model, {"narrow": bound}))
    onnx.checker.check_model(hardened, full_check=True)
    found = _run(hardened, {"image": images()}, ["r0", "r1"])
    narrow_type = helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)
    rounded = np.asarray(bound, np.float32).astype(narrow_type).astype(np.float32)
    expected = np.minimum(found["r0"].astype(narrow_type).astype(np.float32), rounded)
    np.testing.assert_array_equal(found["r1"], expected)


def test_names_already_taken_are_left_alone():
    proto = residual_model()
    for item in proto.graph.node:
        for names in (item.input, item.output):
            for index, name in enumerate(names):
                if name in ("c2", "sum"):
                    names[index] = {"c2": "r1_unbounded", "sum": "r1_upper_bound"}[name]
    model = read_model(proto)
    hardened = apply_patch(model, _patch(model, {"r1": CHANNEL}))
    onnx.checker.check_model(hardened, full_check=True)
    assert hardened.graph.node[1].output[0] == "r1_unbounded_1"


def test_corrections_on_one_tensor_follow_each_other():
    model = read_model(residual_model())
    patch = Patch(
        "unit",
        model.sha256,
        (Affine("r1", *np.float32([[[[[2.0]]]], [[[[0.1]]]]])), UpperBound("r1", CHANNEL.astype(np.float32))),
    )
    before, found = (_run(item, {"image": images()}, ["r1"])["r1"] for item in (model.proto, apply_patch(model, patch)))
    assert np.allclose(found, np.minimum(2 * before + 0.1, CHANNEL.astype(np.float32)))


def test_two_bounds_of_one_tensor_are_no_patch():
    bound = UpperBound("r1", CHANNEL.astype(np.float32))
    with pytest.raises(ValueError, match="two corrections"):
        Patch("unit", "", (bound, bound))


def test_a_hardened_model_can_be_hardened_again():
    model = read_model(residual_model())
    once = read_model(apply_patch(model, _patch(model, {"r1": 0.5, "r2": CHANNEL})))
    sites = [site for site in find_sites(once) if site.kind == "activation"]
    assert [site.tensor for site in sites] == ["r1_unbounded", "r2_unbounded"]
    twice = apply_patch(once, _patch(once, {"r1_unbounded": 0.2}))
    assert _run(twice, {"image": images()}, ["r1"])["r1"].max() <= np.float32(0.2)


@pytest.mark.parametrize(
    ("bounds", "error", "message"),
    [
        ({"r1": np.ones((1, 5, 1, 1))}, InputError, "made for another model"),
        ({"r1": np.ones(6)}, InputError, r"shape \(6,\)"),
        ({"r1": np.full((1, 6, 1, 1), np.nan)}, InputError, "NaN"),
        ({"nowhere": 1.0}, UnsupportedGraphError, "unknown type"),
        ({"image": 1.0}, UnsupportedGraphError, "input or initializer"),
    ],
)
def test_bounds_that_do_not_fit(bounds, error, message):
    model = read_model(residual_model())
    with pytest.raises(error, match=message):
        apply_patch(model, _patch(model, bounds))


def test_a_patch_for_another_model_is_refused():
    model, other = read_model(residual_model()), read_model(residual_model(opset=13))
    with pytest.raises(InputError, match="calibrate again"):
        apply_patch(other, _patch(model, {"r1": 1.0}))


def test_clip_with_a_bound_per_channel_passes_the_checker_and_fails_at_run():
    """Why bounds per channel are Min nodes."""
    proto = residual_model()
    proto.graph.node[1].CopyFrom(node("Clip", ["c1", "", "limit"], ["r1"]))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((6, 1, 1), np.float32), "limit"))
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    with pytest.raises(Exception, match="scalar"):
        session.run(None, {"image": images()})


@st.composite
def _random_models(draw):
    """Chains with residual joins, several consumers, shared weights and consumed outputs."""
    nodes, tensors, outputs = [], ["c1"], [("logits", ("N", 4))]
    for index in range(draw(st.integers(1, 5))):
        source, name = draw(st.sampled_from(tensors)), f"t{index}"
        kind = draw(st.sampled_from(["Conv", "Relu", "LeakyRelu", "Sigmoid", "Add", "Concat"]))
        if kind == "Conv":
            nodes.append(node("Conv", [source, draw(st.sampled_from(["wa", "wb"]))], [name]))
        elif kind == "Add":
            nodes.append(node("Add", [source, draw(st.sampled_from(tensors))], [name]))
        elif kind == "Concat":
            nodes += [
                node("Concat", [source, draw(st.sampled_from(tensors))], [f"{name}_wide"], axis=1),
                node("Conv", [f"{name}_wide", "wc"], [name]),
            ]
        else:
            nodes.append(node(kind, [source], [name]))
        tensors.append(name)
        if draw(st.booleans()):
            outputs.append((name, ("N", 6, 8, 8)))
    nodes = [
        node("Conv", ["image", "w1"], ["c1"], pads=[1, 1, 1, 1]),
        *nodes,
        node("Relu", [tensors[-1]], ["act"]),
        node("GlobalAveragePool", ["act"], ["pooled"]),
        node("Flatten", ["pooled"], ["flat"]),
        node("Gemm", ["flat", "fc"], ["logits"], transB=1),
    ]
    shapes = {"w1": (6, 3, 3, 3), "wa": (6, 6, 1, 1), "wb": (6, 6, 1, 1), "wc": (6, 12, 1, 1), "fc": (4, 6)}
    proto = build(nodes, weights_of(shapes), outputs=outputs, listed_as_inputs=draw(st.booleans()))
    used = {name for item in proto.graph.node for name in item.input}
    kept = [tensor for tensor in proto.graph.initializer if tensor.name in used]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    declared = [value for value in proto.graph.input if value.name in used]
    del proto.graph.input[:]
    proto.graph.input.extend(declared)
    return proto


@settings(max_examples=40, deadline=None)
@given(proto=_random_models(), seed=st.integers(0, 1000))
def test_random_graphs_keep_their_answers_with_neutral_bounds_and_obey_real_ones(proto, seed):
    model = read_model(proto)
    sites = [site for site in find_sites(model) if site.kind == "activation"]
    bound = np.random.default_rng(seed).random((1, 6, 1, 1)).astype(np.float32)
    patch = Patch("unit", model.sha256, tuple(UpperBound(site.tensor, bound) for site in sites))
    hardened = apply_patch(model, patch)
    report = check_parity(model, hardened, apply_patch(model, neutral_patch(model, patch)), [images(2)])
    assert report.largest <= 1e-5
    found = _run(hardened, {"image": images(2)}, [site.tensor for site in sites])
    assert all((value <= bound).all() for value in found.values())
