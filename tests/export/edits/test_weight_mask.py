# SPDX-License-Identifier: Apache-2.0
"""Masks and biases baked into graphs, against what a mask means: m * y + (1 - m) * bias at the output."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from patcher.errors import InputError, UnsupportedGraphError
from patcher.export import apply_patch, check_parity, neutral_patch
from patcher.graph.sites import find_sites
from patcher.graph.weight_channels import mask_layers
from patcher.model.model import Model, read_model
from patcher.patch import Affine, Bias, Patch, WeightMask
from patcher.runtime import create_session
from tests.tiny_models import activation_model, build, head, images, node, residual_model, weights_of

SHAPES = {"fc": (4, 6), "fc_bias": (4,), "wb": (6,)}
STEM = node("Conv", ["image", "w1"], ["c1"], pads=[1, 1, 1, 1])


def _linear(operators, shapes, source="y"):
    nodes = [STEM, *operators, node("Relu", [source], ["act"]), *head("act")]
    return build(nodes, weights_of({"w1": (6, 3, 3, 3), **SHAPES, **shapes}))


def _flat(operators, shapes):
    """Linear operators on a flat tensor ``(N, 6)`` that end in ``y``."""
    nodes = [
        STEM,
        node("GlobalAveragePool", ["c1"], ["p1"]),
        node("Flatten", ["p1"], ["f1"]),
        *operators,
        node("Relu", ["y"], ["act"]),
        node("Gemm", ["act", "fc", "fc_bias"], ["logits"], transB=1),
    ]
    return build(nodes, weights_of({"w1": (6, 3, 3, 3), **SHAPES, **shapes}))


KINDS = {
    "conv": lambda: _linear([node("Conv", ["c1", "w", "wb"], ["y"])], {"w": (6, 6, 1, 1)}),
    "grouped": lambda: _linear([node("Conv", ["c1", "w", "wb"], ["y"], group=2)], {"w": (6, 3, 1, 1)}),
    "depthwise": lambda: _linear([node("Conv", ["c1", "w", "wb"], ["y"], group=6)], {"w": (6, 1, 1, 1)}),
    "transposed": lambda: _linear([node("ConvTranspose", ["c1", "w", "wb"], ["y"])], {"w": (6, 6, 2, 2)}),
    "grouped transposed": lambda: _linear(
        [node("ConvTranspose", ["c1", "w", "wb"], ["y"], group=3)], {"w": (6, 2, 2, 2)}
    ),
    "gemm": lambda: _flat([node("Gemm", ["f1", "w", "wb"], ["y"], alpha=0.5, beta=2.0)], {"w": (6, 6)}),
    "gemm transB": lambda: _flat([node("Gemm", ["f1", "w", "wb"], ["y"], transB=1)], {"w": (6, 6)}),
    "matmul right": lambda: _flat([node("MatMul", ["f1", "w"], ["y"])], {"w": (6, 6)}),
    "matmul left": lambda: _linear(
        [
            node("Constant", [], ["tokens_shape"], value_ints=[0, 6, 64]),
            node("Reshape", ["c1", "tokens_shape"], ["tokens"]),
            node("MatMul", ["w", "tokens"], ["mixed"]),
            node("Constant", [], ["map_shape"], value_ints=[0, 6, 8, 8]),
            node("Reshape", ["mixed", "map_shape"], ["y"]),
        ],
        {"w": (6, 6)},
    ),
    "identity": lambda: _linear(
        [node("Identity", ["w"], ["same"]), node("Conv", ["c1", "same", "wb"], ["y"])], {"w": (6, 6, 1, 1)}
    ),
}
MASK = np.linspace(0.05, 1, 6, dtype=np.float32)


def _layer(model: Model, weight: str = "w"):
    sites = [site for site in find_sites(model) if site.kind == "channel"]
    layers, _ = mask_layers(model, sites)
    return next(item for item in layers if item.initializer in (weight, "same"))


def _values(proto, names, feed=None, optimization="all"):
    proto = onnx.ModelProto.FromString(proto.SerializeToString())
    known = {value.name for value in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    session = create_session(proto.SerializeToString(), optimization=optimization, threads=1)
    return session.run(list(names), {"image": images() if feed is None else feed})


def _harden(model: Model, *corrections):
    patch = Patch("nft", model.sha256, corrections)
    hardened = apply_patch(model, patch)
    report = check_parity(model, hardened, apply_patch(model, neutral_patch(model, patch)), [images()])
    assert report.largest <= 1e-5
    return hardened


def _without_weight(proto, name):
    """The same model with a weight of zeros: its output is the bias."""
    zeroed = onnx.ModelProto.FromString(proto.SerializeToString())
    tensor = next(item for item in zeroed.graph.initializer if item.name == name)
    tensor.raw_data = bytes(len(tensor.raw_data))
    return zeroed


@pytest.mark.parametrize("form", ["mask", "weights"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_scales_channels_and_keeps_the_bias(kind: str, form: str) -> None:
    model = read_model(KINDS[kind]())
    layer = _layer(model)
    correction = WeightMask(layer.initializer, layer.weight_mask(MASK), form)
    hardened = _harden(model, correction)
    before, after = (_values(proto, [layer.tensor])[0] for proto in (model.proto, hardened))
    bias = _values(_without_weight(model.proto, "w"), [layer.tensor])[0]
    factor = MASK.reshape(layer.broadcast)
    np.testing.assert_allclose(after, factor * before + (1 - factor) * bias, rtol=1e-4, atol=1e-5)
    added = len(hardened.graph.node) - len(model.proto.graph.node)
    assert added == (1 if form == "mask" else 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_shifted_bias(kind: str) -> None:
    model = read_model(KINDS[kind]())
    layer = _layer(model)
    shift = np.linspace(-1, 1, 6, dtype=np.float32).reshape(layer.broadcast)
    hardened = _harden(model, Bias(layer.tensor, shift))
    before, after = (_values(proto, [layer.tensor])[0] for proto in (model.proto, hardened))
    np.testing.assert_allclose(after, before + shift, rtol=1e-4, atol=1e-5)


def test_a_bias_where_there_was_none_and_one_shared_by_two() -> None:
    nodes = [node("Conv", ["c1", "w2"], ["c2"]), node("Conv", ["c2", "w3", "b"], ["c3"])]
    nodes += [node("Conv", ["c3", "w3", "b"], ["c4"]), node("Relu", ["c4"], ["act"])]
    model = read_model(activation_model(nodes, weights_of({"w2": (6, 6, 1, 1), "w3": (6, 6, 1, 1), "b": (6,)})))
    shift = np.linspace(-1, 1, 6, dtype=np.float32).reshape(1, 6, 1, 1)
    hardened = _harden(model, Bias("c2", shift), Bias("c3", shift))
    inputs = {item.output[0]: list(item.input) for item in hardened.graph.node}
    assert inputs["c2"] == ["c1", "w2", "c2_shift"]
    assert inputs["c4"] == ["c3", "w3", "b"], "the other reader of the bias keeps it"
    before, after = (_values(proto, ["c2"])[0] for proto in (model.proto, hardened))
    np.testing.assert_allclose(after, before + shift, rtol=1e-5, atol=1e-6)


def test_the_bias_of_a_normalization() -> None:
    statistics = {name: np.full(6, value, np.float32) for name, value in (("g", 2), ("b", 1), ("mean", 0), ("var", 1))}
    nodes = [node("BatchNormalization", ["c1", "g", "b", "mean", "var"], ["n1"]), node("Relu", ["n1"], ["act"])]
    model = read_model(activation_model(nodes, statistics))
    shift = np.linspace(-1, 1, 6, dtype=np.float32).reshape(1, 6, 1, 1)
    hardened = _harden(model, Bias("n1", shift))
    before, after = (_values(proto, ["n1"])[0] for proto in (model.proto, hardened))
    np.testing.assert_allclose(after, before + shift, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("beta", "expected"), [(0.0, 0.0), (4.0, 4.0)])
def test_the_bias_of_a_gemm_counts_beta_times(beta: float, expected: float) -> None:
    model = read_model(_flat([node("Gemm", ["f1", "w", "wb"], ["y"], beta=beta)], {"w": (6, 6)}))
    shift = np.full((1, 6), 3, np.float32)
    hardened = _harden(model, Bias("y", shift))
    before, after = (_values(proto, ["y"])[0] for proto in (model.proto, hardened))
    np.testing.assert_allclose(after, before + shift, rtol=1e-5, atol=1e-5)


def test_a_weight_of_two_nodes_gets_one_mask_for_both() -> None:
    nodes = [node("Conv", ["c1", "w"], ["c2"]), node("Conv", ["c2", "w"], ["c3"]), node("Relu", ["c3"], ["act"])]
    model = read_model(activation_model(nodes, weights_of({"w": (6, 6, 1, 1)})))
    layers, refused = mask_layers(model, [site for site in find_sites(model) if site.kind == "channel"])
    assert [item.tensor for item in layers if item.initializer == "w"] == ["c2", "c3"]
    assert [item.tensor for item in refused] == ["logits"]
    hardened = _harden(model, WeightMask("w", MASK.reshape(6, 1, 1, 1)))
    assert sum("w_masked" in item.input for item in hardened.graph.node) == 2


@pytest.mark.parametrize(
    ("reader", "reason"),
    [
        (node("Gemm", ["f1", "w"], ["h2"], transB=1), "different axes"),
        (node("Add", ["f1", "row"], ["h2"]), "no masked layer"),
    ],
)
def test_a_weight_that_others_read_differently_is_refused(reader, reason: str) -> None:
    first = node("Gemm", ["f1", "w"], ["h1"])
    operators = [first, node("ReduceSum", ["w"], ["row"], keepdims=0), reader, node("Add", ["h1", "h2"], ["y"])]
    operators[1].input.append("axes")
    proto = _flat([*operators[:2], operators[2], operators[3]], {"w": (6, 6)})
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0]), "axes"))
    if reader.op_type == "Gemm":
        proto.graph.node.remove(operators[1])
    model = read_model(proto)
    _, refused = mask_layers(model, [site for site in find_sites(model) if site.kind == "channel"])
    assert any(reason in item.reason for item in refused)


def test_the_original_weight_stays_in_the_file_unless_it_is_baked() -> None:
    model = read_model(residual_model())
    mask = MASK.reshape(6, 1, 1, 1)
    for form in ("mask", "weights"):
        hardened = _harden(model, WeightMask("w2", mask, form))
        weights = {item.name: onnx.numpy_helper.to_array(item) for item in hardened.graph.initializer}
        original = next(onnx.numpy_helper.to_array(i) for i in model.proto.graph.initializer if i.name == "w2")
        np.testing.assert_array_equal(weights["w2"], original if form == "mask" else original * mask)


def test_weights_declared_as_inputs_can_be_masked() -> None:
    model = read_model(residual_model(listed_as_inputs=True))
    hardened = _harden(model, WeightMask("w2", MASK.reshape(6, 1, 1, 1)))
    assert [value.name for value in hardened.graph.input] == [value.name for value in model.proto.graph.input]


def test_half_precision_stays_half_precision() -> None:
    model = read_model(residual_model(dtype=np.float16))
    patch = Patch(
        "nft",
        model.sha256,
        (WeightMask("w2", MASK.reshape(6, 1, 1, 1)), Bias("c2", MASK.reshape(1, 6, 1, 1))),
    )
    hardened = apply_patch(model, patch)
    assert {item.data_type for item in hardened.graph.initializer} == {onnx.TensorProto.FLOAT16}
    _values(hardened, ["logits"], images(dtype=np.float16))


def test_the_optimised_graph_has_no_extra_node(tmp_path: Path) -> None:
    """Masks, shifted biases and re-estimated maps behind a convolution are all folded at load."""
    model = read_model(residual_model())
    factor = MASK.reshape(1, 6, 1, 1)
    masked = [WeightMask(name, MASK.reshape(6, 1, 1, 1)) for name in ("w1", "w2")]
    hardened = _harden(model, *masked, Bias("c1", factor), Affine("c2", factor, factor))
    counts = []
    for number, proto in enumerate((model.proto, hardened)):
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / f"{number}.onnx")
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        counts.append(sorted(item.op_type for item in onnx.load(tmp_path / f"{number}.onnx").graph.node))
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ("correction", "error", "message"),
    [
        (WeightMask("image", np.ones((1, 1, 1, 1), np.float32)), UnsupportedGraphError, "cannot be masked"),
        (WeightMask("logits", np.ones((1, 1), np.float32)), UnsupportedGraphError, "cannot be masked"),
        (Bias("r1", np.ones((1, 6, 1, 1), np.float32)), UnsupportedGraphError, "operator with a bias"),
        (Bias("c1", np.ones((1, 5, 1, 1), np.float32)), InputError, "does not fit"),
    ],
)
def test_corrections_that_do_not_fit(correction, error, message: str) -> None:
    model = read_model(residual_model())
    with pytest.raises(error, match=message):
        apply_patch(model, Patch("nft", model.sha256, (correction,)))
