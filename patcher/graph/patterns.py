# SPDX-License-Identifier: Apache-2.0
"""Activations that exporters write as several operators.

All of them are a tensor times a gate of itself, up to constant factors::

    SiLU       x * sigmoid(x)                       (QuickGELU: x * sigmoid(1.702 x))
    GELU       x * (1 + erf(x / sqrt 2)) / 2        or x * (1 + tanh(polynomial of x)) / 2
    HardSwish  x * clip(x + 3, 0, 6) / 6            or x * hardsigmoid(x)
    Mish       x * tanh(softplus(x))

so the product is taken apart and its two varying factors are compared. A squeeze-and-excitation gate
is a function of another tensor (the pooled one) and does not match.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import onnx

from patcher.graph.flow import DataFlow, is_standard

# Longest product or polynomial that is followed; a GELU has three factors.
_DEPTH = 8


def gated_activation(node: onnx.NodeProto, flow: DataFlow) -> str | None:
    """Name the decomposed activation whose last operator is this node.

    Args:
        node: Any node.
        flow: The graph's data flow.

    Returns:
        ``SiLU``, ``QuickGELU``, ``GELU``, ``HardSwish`` or ``Mish``; ``None`` where nothing matches or
        where a constant factor of the same activation follows.
    """
    name = _match(node, flow)
    if name is None:
        return None
    after = flow.sole_consumer(node.output[0])
    if after is not None and _scales(after, node.output[0], flow):
        return None
    return name


def activation_source(node: onnx.NodeProto, flow: DataFlow) -> str | None:
    """Input of the activation whose last operator is this node; ``None`` where none is."""
    return next((a for a, b in _pairs(_factors(node.output[0], flow)) if _gate(b, a, flow)), None)


def inner_tensors(node: onnx.NodeProto, flow: DataFlow) -> Iterator[str]:
    """Tensors inside a matched activation, between its input and the output of ``node``."""
    source = activation_source(node, flow)
    waiting = [tensor for tensor in node.input if tensor != source]
    seen: set[str] = set()
    while waiting:
        tensor = waiting.pop()
        producer = flow.producer(tensor)
        if tensor == source or tensor in seen or producer is None or not flow.is_live(tensor):
            continue
        seen.add(tensor)
        yield tensor
        waiting.extend(producer.input)


def _match(node: onnx.NodeProto, flow: DataFlow) -> str | None:
    if not is_standard(node, "Mul", "Div") or not flow.is_live(node.output[0]):
        return None
    pairs = _pairs(_factors(node.output[0], flow))
    return next((name for a, b in pairs if (name := _gate(b, a, flow))), None)


def _pairs(factors: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(factors[0], factors[1]), (factors[1], factors[0])] if len(factors) == 2 else []


def _factors(tensor: str, flow: DataFlow) -> tuple[str, ...]:
    """The two varying factors of a product without their scalar constants; empty if it is none."""
    node = flow.producer(_unscaled(tensor, flow))
    if node is None or not is_standard(node, "Mul"):
        return ()
    return _unscaled(node.input[0], flow), _unscaled(node.input[1], flow)


def _unscaled(tensor: str, flow: DataFlow) -> str:
    """A tensor without the scalar constants it was multiplied or divided by."""
    for _ in range(_DEPTH):
        node = flow.producer(tensor)
        if node is None or not is_standard(node, "Mul", "Div"):
            break
        if flow.scalar(node.input[1]) is not None:
            tensor = node.input[0]
        elif node.op_type == "Mul" and flow.scalar(node.input[0]) is not None:
            tensor = node.input[1]
        else:
            break
    return tensor


def _gate(gate: str, source: str, flow: DataFlow) -> str | None:
    """Name of the activation ``source * gate``, if the gate is a known function of the source."""
    node = flow.producer(gate)
    if node is None:
        return None
    inner = node.input[0]
    if is_standard(node, "Sigmoid") and _unscaled(inner, flow) == source:
        return "SiLU" if inner == source else "QuickGELU"
    if is_standard(node, "HardSigmoid") and _unscaled(inner, flow) == source:
        return "HardSwish"
    if is_standard(node, "Clip", "Min") and _unscaled(_shifted(_below_relu(inner, flow), flow), flow) == source:
        return "HardSwish"
    if is_standard(node, "Tanh") and _is_softplus(inner, source, flow):
        return "Mish"
    if is_standard(node, "Add"):
        return _one_plus(node, source, flow)
    return None


def _one_plus(node: onnx.NodeProto, source: str, flow: DataFlow) -> str | None:
    """``1 + erf(k x)`` and ``1 + tanh(polynomial of x)``: the gates of GELU."""
    varying = [tensor for tensor in node.input if flow.scalar(tensor) is None]
    constants = [value for tensor in node.input if (value := flow.scalar(tensor)) is not None]
    inner = flow.producer(_unscaled(varying[0], flow)) if len(varying) == 1 else None
    if inner is None or not constants or not (math.isclose(constants[0], 1.0) or math.isclose(constants[0], 0.5)):
        return None
    if is_standard(inner, "Erf") and _unscaled(inner.input[0], flow) == source:
        return "GELU"
    if is_standard(inner, "Tanh") and _depends_only_on(inner.input[0], source, flow):
        return "GELU"
    return None


def _below_relu(tensor: str, flow: DataFlow) -> str:
    """``relu6(t)`` may be written ``min(relu(t), 6)``."""
    node = flow.producer(tensor)
    return node.input[0] if node is not None and is_standard(node, "Relu") else tensor


def _shifted(tensor: str, flow: DataFlow) -> str:
    """``x`` of ``x + constant``; empty if the tensor is no such sum."""
    node = flow.producer(tensor)
    if node is None or not is_standard(node, "Add"):
        return ""
    varying = [name for name in node.input if flow.scalar(name) is None]
    return varying[0] if len(varying) == 1 else ""


def _is_softplus(tensor: str, source: str, flow: DataFlow) -> bool:
    """``softplus(x)``, also written ``log(1 + exp(x))``."""
    node = flow.producer(tensor)
    if node is not None and is_standard(node, "Softplus"):
        return _unscaled(node.input[0], flow) == source
    if node is None or not is_standard(node, "Log"):
        return False
    exponential = flow.producer(_shifted(node.input[0], flow))
    if exponential is None or not is_standard(exponential, "Exp"):
        return False
    return _unscaled(exponential.input[0], flow) == source


def _depends_only_on(tensor: str, source: str, flow: DataFlow, depth: int = 0) -> bool:
    """Whether a tensor is a polynomial of the source with constant coefficients."""
    if tensor == source or flow.is_constant(tensor):
        return True
    node = flow.producer(tensor)
    if node is None or depth > _DEPTH or not is_standard(node, "Add", "Mul", "Div", "Pow", "Sub"):
        return False
    return all(_depends_only_on(name, source, flow, depth + 1) for name in node.input)


def _scales(node: onnx.NodeProto, tensor: str, flow: DataFlow) -> bool:
    """Whether a node multiplies or divides a tensor by a scalar constant."""
    if not is_standard(node, "Mul", "Div"):
        return False
    other = node.input[1] if node.input[0] == tensor else node.input[0]
    return flow.scalar(other) is not None and (node.op_type == "Mul" or node.input[0] == tensor)
