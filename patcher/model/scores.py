# SPDX-License-Identifier: Apache-2.0
"""Which output holds the class scores, found by data flow and shape and never by name.

It is the first float output ``(N, K)``, perhaps with further axes of length 1, with K >= 2, or with K = 1 behind a
Sigmoid: then it is the probability of the second of two classes. Where one output is the softmax of another, the
scores before it are taken; where one is computed from another by a layer with weights (an embedding and the scores
made of it), the later one. What is no class scores is said in `patcher.model.no_scores`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import onnx

from patcher.errors import InputError
from patcher.model.inference import TensorTypes
from patcher.model.no_scores import Fault, Outputs, Producers, behind, find_fault

Head = Literal["logits", "softmax", "log_softmax", "sigmoid"]

_LINEAR = ("Conv", "Gemm", "MatMul")


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


def find_scores(
    proto: onnx.ModelProto,
    types: TensorTypes,
    run_shapes: Mapping[str, tuple[int, ...]],
    batch: int,
    name: str,
    wanted: str | None = None,
) -> Scores:
    """Find the class scores.

    Args:
        proto: The model.
        types: Inferred types.
        run_shapes: Shapes of the outputs in a real run.
        batch: How many images that run had.
        name: The model's name, for messages.
        wanted: The output to take (``--scores``); ``None`` for the one that data flow points to.

    Raises:
        InputError: No output holds one row of scores an image, or the one that is wanted does not.
    """
    outputs = Outputs(proto, {key: types.elem_types.get(key, 0) for key in run_shapes}, run_shapes, batch)
    heads = {tensor: _head(tensor, outputs.producers) for tensor in run_shapes}
    faults = {tensor: find_fault(tensor, outputs, heads[tensor] == "sigmoid") for tensor in run_shapes}
    found = [tensor for tensor, fault in faults.items() if fault is None]
    if wanted is None and not found:
        raise InputError(f"{name}: class scores (N, K) expected among the outputs; {_reasons(run_shapes, faults)}")
    tensor, others = _choose(found, heads, outputs) if wanted is None else (wanted, ())
    if wanted is not None:
        if wanted not in run_shapes:
            known = ", ".join(repr(output) for output in run_shapes)
            raise InputError(f"{name}: --scores: an output of the model ({known}) expected, found {wanted!r}")
        if (fault := faults[wanted]) is not None and not fault.may_err:
            raise InputError(f"{name}: --scores: {_reasons({wanted: run_shapes[wanted]}, faults)}")
        others = tuple(item for item in found if item != wanted)
    length = math.prod(run_shapes[tensor][1:])
    return Scores(tensor, heads[tensor], 2 if length == 1 else length, length == 1, others)


def _reasons(shapes: Mapping[str, tuple[int, ...]], faults: Mapping[str, Fault | None]) -> str:
    """Why outputs are no class scores, and what helps."""
    told = {tensor: fault for tensor in shapes if (fault := faults[tensor]) is not None}
    remedy = "; --scores NAME takes one all the same" if any(fault.may_err for fault in told.values()) else ""
    return "; ".join(f"{key!r} {list(shapes[key])} {fault.reason}" for key, fault in told.items()) + remedy


def _choose(found: list[str], heads: Mapping[str, Head], outputs: Outputs) -> tuple[str, tuple[str, ...]]:
    """The class scores among outputs that could be, and the others that are left."""
    producers = outputs.producers
    last = {tensor: _last_layers([tensor], outputs) for tensor in found}
    earlier = {tensor: _layers_before(last[tensor], outputs) for tensor in found}
    # All that was computed of an embedding has a layer behind it that leads to another output.
    made_of = {tensor for tensor in found if any(last[tensor] and last[tensor] <= earlier[other] for other in found)}
    chosen = [tensor for tensor in found if tensor not in made_of] or found
    plain = [tensor for tensor in chosen if heads[tensor] == "logits"]
    tensor = next(item for item in chosen if item in plain or _head_input(item, producers) not in plain)
    return tensor, tuple(item for item in chosen if item != tensor and _head_input(item, producers) != tensor)


def _last_layers(tensors: Iterable[str], outputs: Outputs) -> set[str]:
    """First outputs of the layers with weights that are met first on the way back from `tensors`."""
    found: set[str] = set()
    pending, seen = list(tensors), set()
    while pending:
        tensor = pending.pop()
        node = outputs.producers.get(tensor)
        if node is None or tensor in seen:
            continue
        seen.add(tensor)
        if node.op_type in _LINEAR and not outputs.weights.isdisjoint(node.input):
            found.add(node.output[0])
        else:
            pending += node.input
    return found


def _layers_before(layers: set[str], outputs: Outputs) -> set[str]:
    """First outputs of all layers with weights that lead to `layers`."""
    found: set[str] = set()
    front = layers
    while front:
        read = [name for layer in front for name in outputs.producers[layer].input]
        front = _last_layers(read, outputs) - found
        found |= front
    return found


def _head(tensor: str, producers: Producers) -> Head:
    node = behind(tensor, producers)
    if node is not None and node.op_type == "Softmax":
        return "softmax"
    if node is not None and node.op_type == "Sigmoid":
        return "sigmoid"
    if node is not None and node.op_type == "LogSoftmax":
        return "log_softmax"
    if node is not None and node.op_type == "Log":
        inner = behind(node.input[0], producers)
        if inner is not None and inner.op_type == "Softmax":
            return "log_softmax"
    return "logits"


def _head_input(tensor: str, producers: Producers) -> str:
    """Name of the tensor that a softmax or a sigmoid takes its scores from."""
    node = behind(tensor, producers)
    if node is not None and node.op_type == "Log":
        node = behind(node.input[0], producers)
    return node.input[0] if node is not None and node.input else ""
