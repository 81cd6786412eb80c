# SPDX-License-Identifier: Apache-2.0
"""What goes into a classifier, and its outputs as declared; `patcher.model.scores` finds the class scores.

The image input is the one graph input of rank 4 with 1, 3 or 4 channels at axis 1 or 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import onnx

from patcher.errors import InputError
from patcher.model.element_types import FLOATS
from patcher.model.inference import dimensions

Layout = Literal["NCHW", "NHWC"]

_IMAGE_TYPES = (*FLOATS, onnx.TensorProto.UINT8)
_CHANNELS = (3, 1, 4)


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


def _tensor_type(value: onnx.ValueInfoProto) -> TensorType:
    return TensorType(value.name, value.type.tensor_type.elem_type, dimensions(value) or ())


def _channel_axis(shape: tuple[int | str | None, ...]) -> int | None:
    """Axis of the channels: 3 or 1 of them before 4, axis 1 before axis 3."""
    for channels in _CHANNELS:
        for axis in (1, 3):
            if shape[axis] == channels:
                return axis
    return None
