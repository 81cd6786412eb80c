# SPDX-License-Identifier: Apache-2.0
"""What goes in and what comes out of a classifier, found by data flow and never by name.

The image input is the one graph input of rank 4 with 1, 3 or 4 channels at axis 1 or 3. The class
scores are the first float output ``(N, K)``, perhaps with further axes of length 1, with K >= 2, or with K = 1
behind a Sigmoid: then it is the probability of the second of two classes. Where one output is the softmax of
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
from patcher.model.inference import TensorTypes, dimensions

Layout = Literal["NCHW", "NHWC"]
Head = Literal["logits", "softmax", "log_softmax", "sigmoid"]

_IMAGE_TYPES = (*FLOATS, onnx.TensorProto.UINT8)
_CHANNELS = (3, 1, 4)
# Operators that hand class scores on unchanged, whatever they do to type or shape.
_PASS_THROUGH = ("Identity", "Cast", "Flatten", "Reshape", "Squeeze", "Unsqueeze")
_LINEAR = ("Conv", "Gemm", "MatMul")
Producers = Mapping[str, onnx.NodeProto]


@dataclass(frozen=True)
class TensorType:
    """Name, element type (``onnx.TensorProto``) and declared shape of a graph input or output."""

    name: str
    elem_type: int
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True)
class ImageInput:
    """The image input and how its axes are used."""

    tensor: TensorType
    layout: Layout
    channels: int
    size: tuple[int, int] | None
    batch: int | None

    def sized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width, with what the graph fixes in place of what is given."""
        return with_fixed_sides(self.tensor.shape, self.layout, (height, width))


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


def with_fixed_sides(shape: tuple[int | str | None, ...], layout: Layout, sides: tuple[int, int]) -> tuple[int, int]:
    """Height and width: those of an input's shape, and `sides` where it leaves them open."""
    fixed = shape[2:] if layout == "NCHW" else shape[1:3]
    height, width = (own if isinstance(own, int) else given for own, given in zip(fixed, sides, strict=True))
    return height, width


def real_inputs(proto: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Graph inputs that are no initializers (IR version 3 lists every initializer as an input)."""
    constants = {tensor.name for tensor in proto.graph.initializer}
    constants |= {tensor.values.name for tensor in proto.graph.sparse_initializer}
    return [value for value in proto.graph.input if value.name not in constants]


def graph_outputs(proto: onnx.ModelProto) -> tuple[TensorType, ...]:
    """All graph outputs in order, as declared."""
    return tuple(_tensor_type(value) for value in proto.graph.output)


def find_image_input(proto: onnx.ModelProto, name: str) -> ImageInput:
    """Find the image input.

    Raises:
        InputError: There is none, or more than one input.
    """
    inputs = [_tensor_type(value) for value in real_inputs(proto)]
    if len(inputs) != 1:
        found = ", ".join(repr(value.name) for value in inputs) or "none"
        raise InputError(f"{name}: one image input expected, found {len(inputs)} inputs ({found}); export one input")
    value = inputs[0]
    described = f"input {value.name!r} {onnx.TensorProto.DataType.Name(value.elem_type)} {list(value.shape)}"
    if value.elem_type not in _IMAGE_TYPES:
        raise InputError(f"{name}: an image input of float or uint8 values expected, found {described}")
    if len(value.shape) != 4:
        raise InputError(f"{name}: an image input of rank 4 (N, C, H, W) expected, found {described}")
    axis = _channel_axis(value.shape)
    if axis is None:
        raise InputError(
            f"{name}: an image input with 1, 3 or 4 channels at axis 1 or 3 expected, found {described}; "
            "export the model with the number of channels fixed"
        )
    sides = value.shape[2:] if axis == 1 else value.shape[1:3]
    height, width = sides
    channels, batch = value.shape[axis], value.shape[0]
    return ImageInput(
        tensor=value,
        layout="NCHW" if axis == 1 else "NHWC",
        channels=channels if isinstance(channels, int) else 0,
        size=(height, width) if isinstance(height, int) and isinstance(width, int) else None,
        batch=batch if isinstance(batch, int) else None,
    )


def probe_shapes(image: ImageInput) -> list[tuple[int, int, int, int]]:
    """Two input shapes that differ in every axis the graph leaves open."""
    shapes = []
    for batch, side in ((2, 224), (3, 256)):
        height, width = image.sized(side, side + 32)
        count = image.batch or batch
        nchw = image.layout == "NCHW"
        shapes.append((count, image.channels, height, width) if nchw else (count, height, width, image.channels))
    return shapes


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


def _tensor_type(value: onnx.ValueInfoProto) -> TensorType:
    return TensorType(value.name, value.type.tensor_type.elem_type, dimensions(value) or ())


def _channel_axis(shape: tuple[int | str | None, ...]) -> int | None:
    """Axis of the channels: 3 or 1 of them before 4, axis 1 before axis 3."""
    for channels in _CHANNELS:
        for axis in (1, 3):
            if shape[axis] == channels:
                return axis
    return None


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
