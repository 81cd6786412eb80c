# SPDX-License-Identifier: Apache-2.0
"""What comes out of a classifier, found by data flow and never by name.

The class scores are the first float output ``(N, K)``, perhaps with further axes of length 1, with K >= 2, or with
K = 1 behind a Sigmoid: then it is the probability of the second of two classes. Where one output is the softmax of
another, the scores before it are taken; where one is computed from another by a layer with weights (an embedding
and the scores made of it), the later one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import onnx

from patcher.errors import InputError
from patcher.model.element_types import FLOATS
from patcher.model.inference import TensorTypes
from patcher.model.inputs import TensorType, tensor_type

Head = Literal["logits", "softmax", "log_softmax", "sigmoid"]

# Operators that hand class scores on unchanged, whatever they do to type or shape.
_PASS_THROUGH = ("Identity", "Cast", "Flatten", "Reshape", "Squeeze", "Unsqueeze")
_LINEAR = ("Conv", "Gemm", "MatMul")
Producers = Mapping[str, onnx.NodeProto]


@dataclass(frozen=True)
class Scores:
    """The output with the class scores and what they are.

    Attributes:
        tensor: Its name.
        head: What the scores are.
        num_classes: Number of classes.
        single: Whether there is one score, the probability of class 1 of two.
        others: Other outputs that could hold class scores.
    """

    tensor: str
    head: Head
    num_classes: int
    single: bool = False
    others: tuple[str, ...] = ()


def graph_outputs(proto: onnx.ModelProto) -> tuple[TensorType, ...]:
    """All graph outputs in order, as declared."""
    return tuple(tensor_type(value) for value in proto.graph.output)


def find_logits(
    proto: onnx.ModelProto, types: TensorTypes, run_shapes: Mapping[str, tuple[int, ...]], name: str
) -> Scores:
    """Find the class scores.

    Args:
        proto: The model.
        types: Inferred types.
        run_shapes: Shapes of the outputs in a real run.
        name: The model's name, for messages.

    Raises:
        InputError: No output holds one row of floats an image.
    """
    producers = {output: node for node in proto.graph.node for output in node.output if output}
    rows = {
        value.name: math.prod(run_shapes[value.name][1:])
        for value in proto.graph.output
        if types.elem_types.get(value.name) in FLOATS and _is_row(run_shapes[value.name])
    }
    heads = {tensor: _head(tensor, producers) for tensor in rows}
    best_of = {tensor for tensor in rows if (node := _behind(tensor, producers)) and node.op_type == "TopK"}
    found = [tensor for tensor in rows if tensor not in best_of and (rows[tensor] >= 2 or heads[tensor] == "sigmoid")]
    if not found:
        shapes = ", ".join(f"{key!r} {list(shape)}" for key, shape in run_shapes.items())
        raise InputError(
            f"{name}: class scores (N, K) with K >= 2 expected among the outputs, found {shapes}; "
            "of a single score, export the Sigmoid with it"
        )
    last = {tensor: _last_layers([tensor], proto, producers) for tensor in found}
    earlier = {tensor: _layers_before(last[tensor], proto, producers) for tensor in found}
    # All that was computed of an embedding has a layer behind it that leads to another output.
    made_of = {tensor for tensor in found if any(last[tensor] and last[tensor] <= earlier[other] for other in found)}
    chosen = [tensor for tensor in found if tensor not in made_of] or found
    plain = [tensor for tensor in chosen if heads[tensor] == "logits"]
    tensor = next(item for item in chosen if item in plain or _head_input(item, producers) not in plain)
    others = tuple(item for item in chosen if item != tensor and _head_input(item, producers) != tensor)
    single = rows[tensor] == 1
    return Scores(tensor, heads[tensor], 2 if single else rows[tensor], single, others)


def _is_row(shape: tuple[int, ...]) -> bool:
    """Whether a shape is one row an image, perhaps with axes of length 1."""
    return len(shape) >= 2 and sum(length != 1 for length in shape[1:]) <= 1


def _last_layers(tensors: Iterable[str], proto: onnx.ModelProto, producers: Producers) -> set[str]:
    """First outputs of the layers with weights that are met first on the way back from `tensors`."""
    constants = {item.name for item in proto.graph.initializer}
    found: set[str] = set()
    pending, seen = list(tensors), set()
    while pending:
        tensor = pending.pop()
        node = producers.get(tensor)
        if node is None or tensor in seen:
            continue
        seen.add(tensor)
        if node.op_type in _LINEAR and not constants.isdisjoint(node.input):
            found.add(node.output[0])
        else:
            pending += node.input
    return found


def _layers_before(layers: set[str], proto: onnx.ModelProto, producers: Producers) -> set[str]:
    """First outputs of all layers with weights that lead to `layers`."""
    found: set[str] = set()
    front = layers
    while front:
        front = _last_layers([name for layer in front for name in producers[layer].input], proto, producers) - found
        found |= front
    return found


def _behind(tensor: str, producers: Producers) -> onnx.NodeProto | None:
    """The operator that computes a tensor, behind operators that only hand it on."""
    node = producers.get(tensor)
    while node is not None and node.op_type in _PASS_THROUGH and node.input:
        node = producers.get(node.input[0])
    return node


def _head(tensor: str, producers: Producers) -> Head:
    node = _behind(tensor, producers)
    if node is not None and node.op_type == "Softmax":
        return "softmax"
    if node is not None and node.op_type == "Sigmoid":
        return "sigmoid"
    if node is not None and node.op_type == "LogSoftmax":
        return "log_softmax"
    if node is not None and node.op_type == "Log":
        inner = _behind(node.input[0], producers)
        if inner is not None and inner.op_type == "Softmax":
            return "log_softmax"
    return "logits"


def _head_input(tensor: str, producers: Producers) -> str:
    """Name of the tensor that a softmax or a sigmoid takes its scores from."""
    node = _behind(tensor, producers)
    if node is not None and node.op_type == "Log":
        node = _behind(node.input[0], producers)
    return node.input[0] if node is not None and node.input else ""
