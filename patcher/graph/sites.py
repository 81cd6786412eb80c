# SPDX-License-Identifier: Apache-2.0
"""The places where a method may act, found by data flow, never by node position or name.

Activation sites are outputs of non-linearities (single operators and what exporters decompose) and of
attention layers. Channel sites are outputs of Conv, ConvTranspose, Gemm and MatMul with a constant
weight, the classifier's own layer included. No site is a site when it is the class scores, does not
depend on the image, or has no weighted operator before it (clamping the image is no activation); nor
is a gate that only scales another tensor (squeeze-and-excitation).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from patcher.graph.attention import attention_outputs
from patcher.graph.channels import channel_axes
from patcher.graph.flow import DataFlow, is_standard
from patcher.graph.patterns import gated_activation, inner_tensors
from patcher.graph.site import Site
from patcher.model.element_types import FLOATS
from patcher.model.model import Model

_LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_ACTIVATIONS = (
    "Relu",
    "LeakyRelu",
    "PRelu",
    "ThresholdedRelu",
    "Elu",
    "Selu",
    "Celu",
    "Gelu",
    "HardSwish",
    "Swish",
    "Mish",
    "Softplus",
    "Softsign",
    "Shrink",
)
# Bounded non-linearities are activations (LeNet), unless all they do is scale another tensor.
_GATES = ("Sigmoid", "HardSigmoid", "Tanh")
_HEAD = ("Identity", "Cast", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Softmax", "LogSoftmax", "Log", "Sigmoid")


def find_sites(model: Model) -> tuple[Site, ...]:
    """Find all activation and channel sites of a model.

    Args:
        model: The model.

    Returns:
        The sites in graph order, of those that the class scores depend on; empty where there is none.
    """
    flow = DataFlow(model.proto.graph, model.input_names)
    axes = channel_axes(flow, model.shapes, model.input_names, model.channel_axis)
    activations, used = dict(_activations(flow, model, axes)), flow.sources(model.logits)
    sites = []
    for node in flow.nodes:
        for output in (name for name in node.output if name in used):
            if output in activations:
                sites.append(_site(model, axes, output, activations[output]))
            elif _is_linear(node, flow) and output == node.output[0]:
                sites.append(_channel_site(node, flow, model, axes))
    return tuple(site for site in sites if site is not None)


def _activations(flow: DataFlow, model: Model, axes: dict[str, int]) -> Iterator[tuple[str, str]]:
    """Tensor and operator name of every activation site."""
    excluded = head_tensors(model.logits, flow)
    weighted = _behind_weights(flow)
    patterns = {node.output[0]: name for node in flow.nodes if (name := gated_activation(node, flow))}
    for tensor in patterns:
        producer = flow.producer(tensor)
        if producer is not None:
            excluded.update(inner_tensors(producer, flow))
    found = {node.output[0]: name for node in flow.nodes if (name := _activation(node, flow))}
    found |= patterns
    for chain in attention_outputs(flow):
        suitable = [tensor for tensor in chain if _has_channels(tensor, model, axes)]
        if suitable:
            found[suitable[-1]] = "Attention"
    for tensor, name in found.items():
        floats = model.elem_types.get(tensor, onnx.TensorProto.FLOAT) in FLOATS
        if tensor not in excluded and tensor in weighted and floats:
            yield tensor, name


def _activation(node: onnx.NodeProto, flow: DataFlow) -> str | None:
    """Name of the activation that a single operator is, if it is one."""
    if is_standard(node, *_ACTIVATIONS):
        return node.op_type
    if is_standard(node, *_GATES) and not _only_scales(node, flow):
        return node.op_type
    if is_standard(node, "Clip"):
        return _clip_activation(node, flow)
    if is_standard(node, "Max") and len(node.input) == 2 and any(flow.scalar(name) == 0 for name in node.input):
        return "Relu"
    if is_standard(node, "DequantizeLinear") and _is_quantized_relu(node, flow):
        return "Relu"
    return None


def _clip_activation(node: onnx.NodeProto, flow: DataFlow) -> str | None:
    """A Clip is an activation with both bounds, or from zero on.

    With an upper bound alone it was put there by a patch; with another lower bound alone it guards a
    division against zero (L2 normalisation).
    """
    lower, upper = (*node.input[1:3], "", "")[:2]
    if lower and flow.scalar(lower) == 0:
        return "ReLU6" if upper else "Relu"
    return "Clip" if lower and upper else None


def _only_scales(node: onnx.NodeProto, flow: DataFlow) -> bool:
    """Whether a non-linearity does nothing but gate other tensors, directly or behind shape operators."""
    readers = flow.consumers(node.output[0])
    if not readers or node.output[0] in flow.outputs:
        return False
    for reader in readers:
        if is_standard(reader, "Reshape", "Unsqueeze", "Squeeze", "Expand", "Cast", "Identity", "Transpose"):
            if not _only_scales(reader, flow):
                return False
        elif not is_standard(reader, "Mul") or any(map(flow.is_constant, reader.input)):
            return False
    return True


def _is_quantized_relu(node: onnx.NodeProto, flow: DataFlow) -> bool:
    """A quantizer drops a ReLU whose zero point is the type's lowest value: rounding clips there anyway."""
    quantize = flow.producer(node.input[0])
    if quantize is None or not is_standard(quantize, "QuantizeLinear") or len(quantize.input) < 3:
        return False
    zero_point = flow.value(quantize.input[2])
    before = flow.producer(quantize.input[0])
    if zero_point is None or before is None or not is_standard(before, *_LINEAR, "Add"):
        return False
    return bool(np.all(zero_point == np.iinfo(zero_point.dtype).min))


def _is_linear(node: onnx.NodeProto, flow: DataFlow) -> bool:
    if not is_standard(node, *_LINEAR) or not flow.is_live(node.output[0]):
        return False
    if node.op_type == "MatMul":
        return any(flow.weight(tensor) for tensor in node.input)
    return flow.weight(node.input[1]) is not None


def _behind_weights(flow: DataFlow) -> set[str]:
    """Tensors with a weighted operator somewhere before them."""
    reached: set[str] = set()
    for node in flow.nodes:
        if _is_linear(node, flow) or any(tensor in reached for tensor in node.input):
            reached.update(node.output)
    return reached


def head_tensors(logits: str, flow: DataFlow) -> set[str]:
    """The class scores and what the head computes them from without weights.

    Args:
        logits: Name of the class-score output.
        flow: The graph's data flow.
    """
    tensors = {logits}
    node = flow.producer(logits)
    while node is not None and is_standard(node, *_HEAD):
        tensors.add(node.input[0])
        node = flow.producer(node.input[0])
    return tensors


def _has_channels(tensor: str, model: Model, axes: dict[str, int]) -> bool:
    shape = model.shapes.get(tensor)
    return shape is not None and len(shape) >= 2 and tensor in axes and shape[axes[tensor]] is not None


def _site(model: Model, axes: dict[str, int], tensor: str, operator: str) -> Site | None:
    if not _has_channels(tensor, model, axes):
        return None
    shape, axis = model.shapes[tensor], axes[tensor]
    return Site(tensor, "activation", operator, axis, shape[axis] or 0, shape)


def _channel_site(node: onnx.NodeProto, flow: DataFlow, model: Model, axes: dict[str, int]) -> Site | None:
    tensor = node.output[0]
    if not _has_channels(tensor, model, axes):
        return None
    shape, axis = model.shapes[tensor], axes[tensor]
    weight = next((name for name in (node.input[1], node.input[0]) if flow.weight(name)), "")
    return Site(
        tensor,
        "channel",
        node.op_type,
        axis,
        shape[axis] or 0,
        shape,
        weight=flow.weight(weight),
        normalization=_normalization(node, flow),
    )


def _normalization(node: onnx.NodeProto, flow: DataFlow) -> str | None:
    """Output of the BatchNormalization that follows directly, or behind the bias of a MatMul."""
    after = flow.sole_consumer(node.output[0])
    if after is not None and node.op_type == "MatMul" and is_standard(after, "Add"):
        other = [tensor for tensor in after.input if tensor != node.output[0]]
        after = flow.sole_consumer(after.output[0]) if all(map(flow.is_constant, other)) else None
    if after is None or not is_standard(after, "BatchNormalization"):
        return None
    return str(after.output[0])
