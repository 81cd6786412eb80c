# SPDX-License-Identifier: Apache-2.0
"""Why an output holds no class scores: embeddings, detections, maps, sequences.

By shape: scores are one row of floats an image. By data flow, where a row may be something else:

| the output | what it is |
|---|---|
| ``x / |x|``, or ``x`` normalised over its own values, by a scale and a shift at most | an embedding |
| a projection without bias of features that are an output, too | an embedding |
| one value for each of the boxes ``(N, K, 4)`` of another output | scores of boxes |
| the values of a TopK | the best few scores |

Data flow can err (a classifier may be built like that), so the user may choose such an output all the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import onnx

from patcher.model.element_types import FLOATS

Producers = Mapping[str, onnx.NodeProto]

# Operators that hand class scores on unchanged, whatever they do to type or shape.
_PASS_THROUGH = ("Identity", "Cast", "Flatten", "Reshape", "Squeeze", "Unsqueeze")
_NORMALIZATION = ("LpNormalization", "LayerNormalization", "RMSNormalization")
_AFFINE = ("Mul", "Add", "Sub", "Div")
# From a sum of squares to the norm that is divided by: the root, what keeps it above 0, and its shape.
_NORM_STEPS = (*_PASS_THROUGH, *_AFFINE, "Sqrt", "Pow", "Clip", "Max", "Expand", "Reciprocal")
_BOX_SIDES = 4


@dataclass(frozen=True)
class Fault:
    """Why an output is no class scores.

    Attributes:
        reason: Continues a sentence that the output begins.
        may_err: Whether it is a conclusion that may be wrong, so that the user may overrule it.
    """

    reason: str
    may_err: bool = False


@dataclass(frozen=True)
class Outputs:
    """A model's outputs, what they are, and where they come from.

    Attributes:
        proto: The model.
        elem_types: Element type of each output.
        shapes: Shape of each in a real run.
        batch: How many images that run had.
    """

    proto: onnx.ModelProto
    elem_types: Mapping[str, int]
    shapes: Mapping[str, tuple[int, ...]]
    batch: int

    @cached_property
    def producers(self) -> Producers:
        """The node that makes a tensor, by the tensor's name."""
        return {output: node for node in self.proto.graph.node for output in node.output if output}

    @cached_property
    def weights(self) -> frozenset[str]:
        """Names of the initializers."""
        return frozenset(tensor.name for tensor in self.proto.graph.initializer)

    def is_constant(self, tensor: str) -> bool:
        """Whether a tensor is an initializer, or the value of a Constant, also behind operators that hand it on."""
        node = self.producers.get(tensor)
        while node is not None and node.op_type in (*_PASS_THROUGH, "DequantizeLinear") and node.input:
            tensor, node = node.input[0], self.producers.get(node.input[0])
        return tensor in self.weights or (node is not None and node.op_type == "Constant")

    def reads(self, tensor: str) -> set[str]:
        """Every tensor that one is computed from."""
        found: set[str] = set()
        pending = [tensor]
        while pending:
            node = self.producers.get(pending.pop())
            new = set(node.input) - found if node is not None else set()
            found |= new
            pending += new
        return found


def find_fault(tensor: str, outputs: Outputs, sigmoid: bool) -> Fault | None:
    """Why an output is no class scores; ``None`` where nothing speaks against it.

    Args:
        tensor: Name of the output.
        outputs: All of them.
        sigmoid: Whether it stands behind a Sigmoid, so that one score is the probability of class 1 of two.
    """
    return _by_shape(tensor, outputs, sigmoid) or _by_data_flow(tensor, outputs)


def behind(tensor: str, producers: Producers) -> onnx.NodeProto | None:
    """The operator that computes a tensor, behind operators that only hand it on."""
    node = producers.get(tensor)
    while node is not None and node.op_type in _PASS_THROUGH and node.input:
        node = producers.get(node.input[0])
    return node


def _by_shape(tensor: str, outputs: Outputs, sigmoid: bool) -> Fault | None:
    shape = outputs.shapes[tensor]
    if outputs.elem_types[tensor] not in FLOATS:
        return Fault("holds no floats")
    if len(shape) < 2:
        return Fault("has no axis of classes")
    if shape[0] != outputs.batch:
        images = "one image" if outputs.batch == 1 else f"{outputs.batch} images"
        return Fault(f"has {shape[0]} rows for {images}: its first axis counts something else (letters, boxes)")
    if sum(length != 1 for length in shape[1:]) > 1:
        if len(shape) == 3:
            lengths = f"{shape[1]} x {shape[2]}"
            return Fault(f"holds {lengths} values an image, of boxes, letters, places or tokens: not one row of scores")
        return Fault("is a map with values for each place, as of a segmentation or a detector")
    if math.prod(shape[1:]) == 0:
        return Fault("is empty")
    if math.prod(shape[1:]) == 1 and not sigmoid:
        return Fault("is a single score that may be a logit or a regression; export the Sigmoid with it")
    return None


def _by_data_flow(tensor: str, outputs: Outputs) -> Fault | None:
    node = behind(tensor, outputs.producers)
    if node is not None and node.op_type == "TopK":
        return Fault("holds the best few scores, not one a class", may_err=True)
    if _is_normalised(tensor, outputs):
        return Fault("is divided by its own norm: an embedding, no class scores", may_err=True)
    count = math.prod(outputs.shapes[tensor][1:])
    boxes = next((key for key, shape in outputs.shapes.items() if shape[1:] == (count, _BOX_SIDES)), None)
    if boxes is not None:
        return Fault(f"has a score for each of the {count} boxes of {boxes!r}", may_err=True)
    if features := _projected(tensor, outputs):
        return Fault(
            f"is a projection without bias of {features!r}, which is an output too: an embedding, no class scores",
            may_err=True,
        )
    return None


def _is_normalised(tensor: str, outputs: Outputs) -> bool:
    """Whether a tensor is ``x / |x|``, or ``x`` over its own standard deviation, by a scale and a shift at most."""
    node = behind(tensor, outputs.producers)
    while node is not None and node.op_type in _AFFINE:
        varying = [name for name in node.input if not outputs.is_constant(name)]
        if len(varying) == 2:
            return node.op_type in ("Div", "Mul") and any(
                _is_norm_of(varying[1 - place], varying[place], outputs) for place in (0, 1)
            )
        node = behind(varying[0], outputs.producers) if varying else None
    return node is not None and node.op_type in _NORMALIZATION


def _is_norm_of(tensor: str, vector: str, outputs: Outputs) -> bool:
    """Whether a tensor is computed from a sum of the squares of `vector`, and from nothing else."""
    node = outputs.producers.get(tensor)
    while node is not None and node.op_type in _NORM_STEPS:
        varying = [name for name in node.input[: 1 if node.op_type in (*_PASS_THROUGH, "Expand") else None] if name]
        varying = [name for name in varying if not outputs.is_constant(name)]
        if len(varying) != 1:
            return False
        node = outputs.producers.get(varying[0])
    if node is None:
        return False
    if node.op_type in ("ReduceL2", "ReduceSumSquare"):
        return _same(node.input[0], vector, outputs)
    if node.op_type not in ("ReduceSum", "ReduceMean"):
        return False
    square = behind(node.input[0], outputs.producers)
    if square is None or square.op_type not in ("Mul", "Pow"):
        return False
    factors = square.input if square.op_type == "Mul" else square.input[:1]
    return all(_same(factor, vector, outputs) for factor in factors)


def _same(first: str, second: str, outputs: Outputs) -> bool:
    """Whether two tensors hold the same values, perhaps in other shapes or types."""
    nodes = behind(first, outputs.producers), behind(second, outputs.producers)
    return first == second or (nodes[0] is not None and nodes[0] is nodes[1])


def _projected(tensor: str, outputs: Outputs) -> str | None:
    """The features (an output of several vectors an image) that a tensor is a projection of, without a bias."""
    node = behind(tensor, outputs.producers)
    while node is not None and node.op_type == "Mul":  # the scales of a quantised product
        node = behind(node.input[0], outputs.producers)
    if node is None or node.op_type not in ("MatMul", "MatMulInteger", "Gemm"):
        return None
    if node.op_type == "Gemm" and len(node.input) > 2:
        return None
    rows = [key for key, shape in outputs.shapes.items() if len(shape) == 3 and min(shape[1:]) > 1]
    read = outputs.reads(tensor)
    return next((key for key in rows if key in read), None)
