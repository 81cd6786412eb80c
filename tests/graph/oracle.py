# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime as the oracle: it runs a model without graph optimisation and returns any tensors."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper

from patcher.graph.interpreter import Graph


def run_onnxruntime(proto, feed, names):
    """Values of the named tensors in ONNX Runtime, each an array."""
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    outputs = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in outputs)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(list(names), feed), strict=True))


def node_outputs(proto):
    """Names of all tensors that nodes of the main graph make."""
    return [name for node in proto.graph.node for name in node.output if name]


def assert_agrees(proto, feed, *, tolerance=1e-5, names=None, **options):
    """Every named tensor of the interpreter, recorded and replayed, is ONNX Runtime's."""
    names = node_outputs(proto) if names is None else names
    expected = run_onnxruntime(proto, feed, names)
    graph = Graph(proto, **options)
    tensors = {name: torch.from_numpy(np.asarray(value)) for name, value in feed.items()}
    for _ in range(2):
        found = graph.run(tensors, fetch=names)
        for name in names:
            assert_near(found[name], expected[name], tolerance, name)


def assert_near(found, expected, tolerance, name=""):
    """Same shape, same kind of type, and values within ``tolerance`` of the largest."""
    assert tuple(found.shape) == expected.shape, name
    assert found.is_floating_point() == (expected.dtype.kind == "f"), name
    scale = np.abs(expected.astype(np.float64)[np.isfinite(expected)]).max(initial=1.0)
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=0, atol=tolerance * scale, err_msg=name)


def one_node(operator, arrays, *, outputs=1, opset=17, constants=(), **attributes):
    """A model of one node and its feed; ``constants`` are places of initializers."""
    names = ["" if array is None else f"in{place}" for place, array in enumerate(arrays)]
    results = [f"out{place}" for place in range(outputs)]
    node = helper.make_node(operator, names, results, name="only", **attributes)
    feed, inputs, initializers = {}, [], []
    for place, (name, array) in enumerate(zip(names, arrays, strict=True)):
        if array is None:
            continue
        array = np.asarray(array)
        if place in constants:
            initializers.append(onnx.numpy_helper.from_array(array, name))
            continue
        feed[name] = array
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        inputs.append(helper.make_tensor_value_info(name, kind, array.shape))
    values = [onnx.ValueInfoProto(name=name) for name in results]
    graph = helper.make_graph([node], "one", inputs, values, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), feed


__all__ = ["TensorProto", "assert_agrees", "assert_near", "node_outputs", "one_node", "run_onnxruntime"]
