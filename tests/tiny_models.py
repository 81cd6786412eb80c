# SPDX-License-Identifier: Apache-2.0
"""Tiny ONNX classifiers built in code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

node = helper.make_node
SHARED = Path(__file__).resolve().parents[2] / "shared"


def zoo_files() -> list[Path]:
    """The trained classifiers beside the checkout; none where it stands alone."""
    return sorted((SHARED / "zoo").glob("*.onnx"))


zoo = pytest.mark.skipif(not zoo_files(), reason="no ../shared/zoo beside the checkout")


def build(
    nodes,
    weights=None,
    *,
    opset=17,
    ir_version=8,
    image=("N", 3, 8, 8),
    elem_type=TensorProto.FLOAT,
    outputs=(("logits", ("N", 4)),),
    output_type=None,
    listed_as_inputs=False,
    name="tiny",
):
    """A model from nodes and a dictionary of numpy weights."""
    initializers = [numpy_helper.from_array(np.asarray(value), key) for key, value in (weights or {}).items()]
    inputs = [helper.make_tensor_value_info("image", elem_type, image)]
    if listed_as_inputs:
        inputs += [helper.make_tensor_value_info(item.name, item.data_type, item.dims) for item in initializers]
    graph = helper.make_graph(
        list(nodes),
        name,
        inputs,
        [helper.make_tensor_value_info(key, output_type or elem_type, shape) for key, shape in outputs],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def weights_of(shapes, *, seed=0, dtype=np.float32):
    """Random weights by name."""
    rng = np.random.default_rng(seed)
    return {key: rng.standard_normal(shape).astype(dtype) for key, shape in shapes.items()}


def head(source, classes=4, logits="logits"):
    """Pool, flatten and classify a ``(N, 6, H, W)`` tensor with the weights ``fc`` and ``fc_bias``."""
    return [
        node("GlobalAveragePool", [source], ["pooled"]),
        node("Flatten", ["pooled"], ["flat"]),
        node("Gemm", ["flat", "fc", "fc_bias"], [logits], transB=1),
    ]


RESIDUAL_SHAPES = {"w1": (6, 3, 3, 3), "b1": (6,), "w2": (6, 6, 3, 3), "fc": (4, 6), "fc_bias": (4,)}


def residual_nodes():
    """Conv, Relu, Conv, residual Add, Relu, head: the first activation has two consumers."""
    return [
        node("Conv", ["image", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], ["r1"]),
        node("Conv", ["r1", "w2"], ["c2"], pads=[1, 1, 1, 1]),
        node("Add", ["c2", "r1"], ["sum"]),
        node("Relu", ["sum"], ["r2"]),
        *head("r2"),
    ]


def residual_model(*, dtype=np.float32, **options):
    """A small residual classifier."""
    elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return build(residual_nodes(), weights_of(RESIDUAL_SHAPES, dtype=dtype), elem_type=elem_type, **options)


def activation_model(nodes, extra=None, *, opset=17, **options):
    """Conv, then ``nodes`` that make ``act`` out of ``c1`` (N, 6, 8, 8), then the head."""
    weights = weights_of({"w1": (6, 3, 3, 3), "fc": (4, 6), "fc_bias": (4,)}) | (extra or {})
    return build(
        [node("Conv", ["image", "w1"], ["c1"], pads=[1, 1, 1, 1]), *nodes, *head("act")],
        weights,
        opset=opset,
        **options,
    )


def images(count=3, shape=(3, 8, 8), *, seed=0, dtype=np.float32):
    """Random images in [0, 1]."""
    return np.random.default_rng(seed).random((count, *shape)).astype(dtype)


def tokens_first_model(**options):
    """Computes with tokens first (``r``), with tokens and images in one axis (``q``), with images first (``s``)."""
    weights = weights_of({"w": (3, 6), "u": (6, 6), "v": (6, 6), "fc": (6, 4)})
    shapes = {"flat": (0, 3, -1), "one_axis": (-1, 6), "three": (64, -1, 6)}
    nodes = [
        node("Reshape", ["image", "flat"], ["pixels"]),
        node("Transpose", ["pixels"], ["tokens_first"], perm=[2, 0, 1]),
        node("MatMul", ["tokens_first", "w"], ["a"]),
        node("Relu", ["a"], ["r"]),
        node("Reshape", ["r", "one_axis"], ["joined"]),
        node("MatMul", ["joined", "u"], ["c"]),
        node("Relu", ["c"], ["q"]),
        node("Reshape", ["q", "three"], ["parted"]),
        node("Transpose", ["parted"], ["images_first"], perm=[1, 0, 2]),
        node("MatMul", ["images_first", "v"], ["b"]),
        node("Relu", ["b"], ["s"]),
        node("ReduceMean", ["s"], ["mean"], axes=[1], keepdims=0),
        node("MatMul", ["mean", "fc"], ["logits"]),
    ]
    return build(nodes, weights | {key: np.array(value) for key, value in shapes.items()}, **options)
