# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from patcher.graph.sites import find_sites
from patcher.model.model import read_model
from tests.graph.decomposed import CONSTANTS, DECOMPOSED, decomposed
from tests.tiny_models import (
    RESIDUAL_SHAPES,
    activation_model,
    build,
    node,
    residual_model,
    residual_nodes,
    weights_of,
    zoo,
    zoo_files,
)


def _sites(proto, kind="activation"):
    return [site for site in find_sites(read_model(proto)) if site.kind == kind]


def _found(proto):
    return [(site.tensor, site.operator, site.channel_axis, site.channels) for site in _sites(proto)]


def test_activation_sites_in_graph_order():
    assert _found(residual_model()) == [("r1", "Relu", 1, 6), ("r2", "Relu", 1, 6)]
    assert _sites(residual_model())[0].shape == (None, 6, 8, 8)


def test_channel_sites():
    sites = _sites(residual_model(), "channel")
    assert [(s.tensor, s.operator, s.channel_axis, s.channels, s.weight, s.normalization) for s in sites] == [
        ("c1", "Conv", 1, 6, "w1", None),
        ("c2", "Conv", 1, 6, "w2", None),
        ("logits", "Gemm", 1, 4, "fc", None),
    ]


SINGLE = [
    (["Relu"], 17, "Relu"),
    (["LeakyRelu"], 17, "LeakyRelu"),
    (["PRelu", "slope"], 17, "PRelu"),
    (["Elu"], 17, "Elu"),
    (["Selu"], 17, "Selu"),
    (["Celu"], 17, "Celu"),
    (["Gelu"], 20, "Gelu"),
    (["HardSwish"], 17, "HardSwish"),
    (["Swish"], 24, "Swish"),
    (["Mish"], 18, "Mish"),
    (["Softplus"], 17, "Softplus"),
    (["Softsign"], 17, "Softsign"),
    (["ThresholdedRelu"], 17, "ThresholdedRelu"),
    (["Shrink"], 17, "Shrink"),
    (["Sigmoid"], 17, "Sigmoid"),
    (["HardSigmoid"], 17, "HardSigmoid"),
    (["Tanh"], 17, "Tanh"),
    (["Clip", "zero", "six"], 17, "ReLU6"),
    (["Clip", "minus", "six"], 17, "Clip"),
    (["Max", "zero"], 17, "Relu"),
]


@pytest.mark.parametrize(("operator", "opset", "name"), SINGLE, ids=lambda value: str(value))
def test_single_operators(operator, opset, name):
    extra = {key: CONSTANTS[key] for key in operator[1:]}
    proto = activation_model([node(operator[0], ["c1", *operator[1:]], ["act"])], extra, opset=opset)
    proto.ir_version = 10
    try:
        found = _found(proto)
    except Exception as error:
        if "Could not find an implementation" in str(error) or "not registered" in str(error):
            pytest.skip(f"this onnxruntime has no {operator[0]}")
        raise
    assert found == [("act", name, 1, 6)]


@pytest.mark.parametrize("name", DECOMPOSED)
@pytest.mark.parametrize("as_nodes", [False, True], ids=["initializers", "Constant nodes"])
def test_decomposed_activations_are_one_site(name, as_nodes):
    operator, proto = decomposed(name, as_nodes=as_nodes)
    assert _found(proto) == [("act", operator, 1, 6)]


def _gated(gate):
    """Squeeze and excitation: the pooled tensor through Relu and a gate scales the activation."""
    return [
        node("Relu", ["c1"], ["r1"]),
        node("GlobalAveragePool", ["r1"], ["squeezed"]),
        node("Conv", ["squeezed", "down"], ["reduced"]),
        node("Relu", ["reduced"], ["small"]),
        node("Conv", ["small", "up"], ["expanded"]),
        node(gate, ["expanded"], ["gate"]),
        node("Mul", ["r1", "gate"], ["act"]),
    ]


@pytest.mark.parametrize("gate", ["Sigmoid", "HardSigmoid"])
def test_a_gate_is_no_site(gate):
    extra = weights_of({"down": (2, 6, 1, 1), "up": (6, 2, 1, 1)})
    assert _found(activation_model(_gated(gate), extra)) == [("r1", "Relu", 1, 6), ("small", "Relu", 1, 2)]


def test_a_product_of_two_layers_is_no_activation():
    nodes = [node("Conv", ["c1", "w2"], ["c2"]), node("Sigmoid", ["c2"], ["s"]), node("Mul", ["c1", "s"], ["act"])]
    assert _found(activation_model(nodes, weights_of({"w2": (6, 6, 1, 1)}))) == []


def test_class_scores_and_what_the_head_makes_of_them_are_no_sites():
    nodes = [
        *residual_nodes()[:-1],
        node("Gemm", ["flat", "fc", "fc_bias"], ["z"], transB=1),
        node("Relu", ["z"], ["p"]),
    ]
    proto = build([*nodes, node("Softmax", ["p"], ["logits"], axis=1)], weights_of(RESIDUAL_SHAPES))
    assert [site[0] for site in _found(proto)] == ["r1", "r2"]


def test_clamping_the_image_is_no_activation():
    nodes = [node("Clip", ["image", "zero", "one"], ["clamped"]), *residual_nodes()]
    nodes[1].input[0] = "clamped"
    weights = weights_of(RESIDUAL_SHAPES) | {key: CONSTANTS[key] for key in ("zero", "one")}
    assert [site[0] for site in _found(build(nodes, weights))] == ["r1", "r2"]


def test_a_bound_put_there_by_a_patch_is_no_activation():
    nodes = [node("Relu", ["c1"], ["r1"]), node("Clip", ["r1", "", "six"], ["act"])]
    assert [site[0] for site in _found(activation_model(nodes, {"six": CONSTANTS["six"]}))] == ["r1"]


def test_a_guard_against_division_by_zero_is_no_activation():
    nodes = [
        node("ReduceL2", ["c1", "axis"], ["norm"], keepdims=1),
        node("Clip", ["norm", "tiny"], ["guarded"]),
        node("Div", ["c1", "guarded"], ["unit"]),
        node("Relu", ["unit"], ["act"]),
    ]
    extra = {"axis": np.array([1]), "tiny": np.array(1e-12, np.float32)}
    assert [site[0] for site in _found(activation_model(nodes, extra, opset=18))] == ["act"]


def test_no_activation_at_all():
    assert _found(activation_model([node("Identity", ["c1"], ["act"])])) == []


def test_names_carry_no_meaning():
    proto = residual_model()
    for index, item in enumerate(proto.graph.node):
        item.name = f"Softmax_{index}"
    assert len(_sites(proto)) == 2


def test_normalization_behind_a_convolution():
    statistics = {key: np.ones(6, np.float32) for key in ("gamma", "beta", "mean", "var")}
    nodes = [
        node("BatchNormalization", ["c1", "gamma", "beta", "mean", "var"], ["bn"]),
        node("Relu", ["bn"], ["act"]),
    ]
    site = _sites(activation_model(nodes, statistics), "channel")[0]
    assert (site.tensor, site.normalization) == ("c1", "bn")
    shared = [*nodes, node("Neg", ["c1"], ["negated"]), node("Add", ["act", "negated"], ["both"])]
    proto = activation_model(shared, statistics)
    assert _sites(proto, "channel")[0].normalization is None


@pytest.mark.parametrize("between", ["Identity", "Cast"])
def test_the_weight_behind_an_identity_or_cast_is_found(between):
    attributes = {"to": TensorProto.FLOAT} if between == "Cast" else {}
    proto = residual_model()
    proto.graph.node[0].input[1] = "w1_again"
    proto.graph.node.insert(0, node(between, ["w1"], ["w1_again"], **attributes))
    assert _sites(proto, "channel")[0].weight == "w1"


def test_a_quantized_weight_is_named_where_it_is_a_float():
    proto = residual_model()
    proto.graph.node[0].input[1] = "w1_float"
    proto.graph.node.insert(0, node("DequantizeLinear", ["w1_int", "scale", "zero_point"], ["w1_float"]))
    del proto.graph.initializer[0]
    proto.graph.initializer.extend(
        build(
            [], {"w1_int": np.ones((6, 3, 3, 3), np.int8), "scale": np.float32(0.1), "zero_point": np.int8(0)}
        ).graph.initializer
    )
    assert _sites(proto, "channel")[0].weight == "w1_float"


def test_a_relu_that_a_quantizer_left_to_the_zero_point():
    nodes = [
        node("QuantizeLinear", ["c1", "scale", "zero_point"], ["q"]),
        node("DequantizeLinear", ["q", "scale", "zero_point"], ["act"]),
    ]
    extra = {"scale": np.float32(0.1), "zero_point": np.uint8(0)}
    assert _found(activation_model(nodes, extra)) == [("act", "Relu", 1, 6)]
    assert _found(activation_model(nodes, extra | {"zero_point": np.uint8(128)})) == []


def test_nhwc_between_transposes():
    nodes = [
        node("Transpose", ["image"], ["nchw"], perm=[0, 3, 1, 2]),
        node("Conv", ["nchw", "w1"], ["c1"], pads=[1, 1, 1, 1]),
        node("Transpose", ["c1"], ["nhwc"], perm=[0, 2, 3, 1]),
        node("Add", ["nhwc", "bias"], ["sum"]),
        node("Relu", ["sum"], ["r1"]),
        node("ReduceMean", ["r1"], ["flat"], axes=[1, 2], keepdims=0),
        node("MatMul", ["flat", "fc"], ["logits"]),
    ]
    proto = build(nodes, weights_of({"w1": (6, 3, 3, 3), "bias": (6,), "fc": (6, 4)}), image=("N", 8, 8, 3))
    assert _found(proto) == [("r1", "Relu", 3, 6)]
    channels = _sites(proto, "channel")
    assert [(site.operator, site.channel_axis, site.channels) for site in channels] == [
        ("Conv", 1, 6),
        ("MatMul", 1, 4),
    ]


def attention_block(*, single_operator=False):
    """Patches, one attention layer with projection and bias, a residual sum, a two-layer MLP, mean, classes."""
    heads, width = 2, 6
    qkv = [
        node("MatMul", ["tokens", "wq"], ["q"]),
        node("MatMul", ["tokens", "wk"], ["k"]),
        node("MatMul", ["tokens", "wv"], ["v"]),
    ]
    if single_operator:
        core = [node("Attention", ["q", "k", "v"], ["merged"], q_num_heads=heads, kv_num_heads=heads)]
    else:
        split = [node("Reshape", [name, "split"], [f"{name}_split"]) for name in "qkv"] + [
            node("Transpose", [f"{name}_split"], [f"{name}h"], perm=[0, 2, 1, 3]) for name in "qkv"
        ]
        core = [
            *split,
            node("Transpose", ["kh"], ["kt"], perm=[0, 1, 3, 2]),
            node("MatMul", ["qh", "kt"], ["scores"]),
            node("Softmax", ["scores"], ["weights"], axis=-1),
            node("MatMul", ["weights", "vh"], ["mixed"]),
            node("Transpose", ["mixed"], ["back"], perm=[0, 2, 1, 3]),
            node("Reshape", ["back", "join"], ["merged"]),
        ]
    nodes = [
        node("Conv", ["image", "patch"], ["patches"], strides=[4, 4]),
        node("Reshape", ["patches", "sequence"], ["channels_first"]),
        node("Transpose", ["channels_first"], ["tokens"], perm=[0, 2, 1]),
        *qkv,
        *core,
        node("MatMul", ["merged", "wo"], ["projected"]),
        node("Add", ["projected", "bo"], ["attended"]),
        node("Add", ["tokens", "attended"], ["residual"]),
        node("MatMul", ["residual", "w_up"], ["up"]),
        node("Sigmoid", ["up"], ["gate"]),
        node("Mul", ["up", "gate"], ["silu"]),
        node("MatMul", ["silu", "w_down"], ["down"]),
        node("ReduceMean", ["down", "one"], ["mean"], keepdims=0),
        node("Gemm", ["mean", "fc"], ["logits"], transB=1),
    ]
    shapes = {key: (width, width) for key in ("wq", "wk", "wv", "wo")}
    shapes |= {"patch": (width, 3, 4, 4), "bo": (width,), "w_up": (width, 9), "w_down": (9, width), "fc": (4, width)}
    integers = {"split": [0, 0, heads, width // heads], "join": [0, 0, width], "sequence": [0, 0, -1], "one": [1]}
    weights = weights_of(shapes) | {key: np.array(value, np.int64) for key, value in integers.items()}
    return build(nodes, weights, opset=23 if single_operator else 18, ir_version=10)


def test_the_attention_output_is_a_site():
    assert _found(attention_block()) == [("attended", "Attention", 2, 6), ("silu", "SiLU", 2, 9)]
    linear = [(site.tensor, site.channel_axis) for site in _sites(attention_block(), "channel")]
    assert linear == [
        ("patches", 1),
        ("q", 2),
        ("k", 2),
        ("v", 2),
        ("projected", 2),
        ("up", 2),
        ("down", 2),
        ("logits", 1),
    ]


def test_the_attention_operator_is_a_site():
    assert _found(attention_block(single_operator=True))[0] == ("attended", "Attention", 2, 6)


@zoo
@pytest.mark.parametrize("path", zoo_files(), ids=lambda path: path.name)
def test_the_zoo_has_the_sites_of_a_resnet18(path):
    sites = find_sites(read_model(path))
    activations = [site for site in sites if site.kind == "activation"]
    assert [site.operator for site in activations] == ["Relu"] * 17
    assert [site.channels for site in activations] == [16] * 5 + [32] * 4 + [64] * 4 + [128] * 4
    channels = [site for site in sites if site.kind == "channel"]
    assert [site.operator for site in channels] == ["Conv"] * 20 + ["Gemm"]
    assert [site.normalization is not None for site in channels] == [path.name.endswith(".bn.onnx")] * 20 + [False]
    assert all(site.weight for site in channels)
