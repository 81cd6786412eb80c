# SPDX-License-Identifier: Apache-2.0
"""What goes into a classifier: one picture, or arrays of any kind, told apart by data flow and never by name.

A picture is the one input of rank 4 with 1, 3 or 4 channels at axis 1 or 3. Everything else is arrays: point clouds
``(N, 3, P)``, clips ``(N, C, T, H, W)``, features, tables, token ids; of several inputs each has its batch axis first.

Several inputs travel as one array, so that whatever cuts, shuffles or repeats rows need not know of them: stacked
along axis 1 where all have one shape, ``(N, inputs, ...)``, else flattened one after the other, ``(N, columns)``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.helper import tensor_dtype_to_np_dtype

from patcher.errors import InputError
from patcher.model.element_types import FLOATS
from patcher.model.inference import dimensions

Layout = Literal["NCHW", "NHWC", "array"]
InputKind = Literal["picture", "array", "tokens"]
Shape = tuple[int | str | None, ...]

_IMAGE_TYPES = (*FLOATS, onnx.TensorProto.UINT8)
_IDS = (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
_ARRAY_TYPES = (*FLOATS, *_IDS, onnx.TensorProto.UINT8, onnx.TensorProto.BOOL)
_CHANNELS = (3, 1, 4)
# Tried in turn where the graph leaves height and width open.
_OPEN_SIZES = (224, 32, 64, 28, 96, 128, 256, 299, 384, 512)
# The same for the open lengths of arrays: words of a sentence, points of a cloud.
_OPEN_LENGTHS = (16, 64, 128, 256, 512, 1024, 8)


@dataclass(frozen=True)
class TensorType:
    """Name, element type (``onnx.TensorProto``) and declared shape of a graph input or output."""

    name: str
    elem_type: int
    shape: Shape

    @property
    def is_integer(self) -> bool:
        """Whether it holds ids or a mask, which have no steps in between."""
        return self.elem_type in (*_IDS, onnx.TensorProto.BOOL)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Its element type in NumPy."""
        return tensor_dtype_to_np_dtype(self.elem_type)


@dataclass(frozen=True)
class ImageInput:
    """The image input and how its axes are used."""

    tensor: TensorType
    layout: Layout
    channels: int
    size: tuple[int, int] | None
    batch: int | None

    @property
    def tensors(self) -> tuple[TensorType, ...]:
        """All inputs."""
        return (self.tensor,)

    def sized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width, with what the graph fixes in place of what is given."""
        return with_fixed_sides(self.tensor.shape, self.layout, (height, width))

    def trials(self) -> Iterator[tuple[tuple[int, ...], ...]]:
        """Shapes that may run, one an input, in turn where the graph leaves lengths open."""
        for height, width in dict.fromkeys(self.sized(side, side) for side in _OPEN_SIZES):
            yield (self._shape(self.batch or 1, height, width),)

    def probes(self) -> list[tuple[tuple[int, ...], ...]]:
        """Two input shapes that differ in every axis the graph leaves open."""
        sizes = [self.sized(side, side + 32) for side in (224, 256)]
        return [(self._shape(self.batch or count, *size),) for count, size in zip((2, 3), sizes, strict=True)]

    def _shape(self, count: int, height: int, width: int) -> tuple[int, ...]:
        nchw = self.layout == "NCHW"
        return (count, self.channels, height, width) if nchw else (count, height, width, self.channels)


@dataclass(frozen=True)
class ArrayInput:
    """Inputs that are no pictures, in graph order."""

    tensors: tuple[TensorType, ...]
    batch: int | None
    layout: Layout = "array"
    channels: int = 0
    size: tuple[int, int] | None = None

    def trials(self) -> Iterator[tuple[tuple[int, ...], ...]]:
        """Shapes that may run, one an input, in turn where the graph leaves lengths open."""
        for length in _OPEN_LENGTHS if self._is_open else _OPEN_LENGTHS[:1]:
            yield self._shapes(self.batch or 1, length)

    def probes(self) -> list[tuple[tuple[int, ...], ...]]:
        """Two input shapes that differ in every axis the graph leaves open."""
        return [self._shapes(self.batch or count, length) for count, length in zip((2, 3), _OPEN_LENGTHS, strict=False)]

    @property
    def _is_open(self) -> bool:
        return any(not isinstance(side, int) for tensor in self.tensors for side in tensor.shape[1:])

    def _shapes(self, count: int, length: int) -> tuple[tuple[int, ...], ...]:
        return tuple(
            (count, *(side if isinstance(side, int) else length for side in tensor.shape[1:]))
            for tensor in self.tensors
        )


ModelInput = ImageInput | ArrayInput


def with_fixed_sides(shape: Shape, layout: Layout, sides: tuple[int, int]) -> tuple[int, int]:
    """Height and width: those of an input's shape, and `sides` where it leaves them open."""
    fixed = shape[2:] if layout == "NCHW" else shape[1:3]
    height, width = (own if isinstance(own, int) else given for own, given in zip(fixed, sides, strict=True))
    return height, width


def real_inputs(proto: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Graph inputs that are no initializers (IR version 3 lists every initializer as an input)."""
    constants = {tensor.name for tensor in proto.graph.initializer}
    constants |= {tensor.values.name for tensor in proto.graph.sparse_initializer}
    return [value for value in proto.graph.input if value.name not in constants]


def tensor_type(value: onnx.ValueInfoProto) -> TensorType:
    """What a graph input or output declares."""
    return TensorType(value.name, value.type.tensor_type.elem_type, dimensions(value) or ())


def find_inputs(proto: onnx.ModelProto, name: str) -> ModelInput:
    """Find the image input, or the arrays.

    Raises:
        InputError: There is none, or one that no rows of data fit.
    """
    tensors = tuple(tensor_type(value) for value in real_inputs(proto))
    if not tensors:
        raise InputError(f"{name}: at least one input expected, found none")
    if len(tensors) == 1 and len(tensors[0].shape) == 4 and tensors[0].elem_type in _IMAGE_TYPES:
        return _image_input(tensors[0], name)
    for tensor in tensors:
        described = f"input {tensor.name!r} {onnx.TensorProto.DataType.Name(tensor.elem_type)} {list(tensor.shape)}"
        if tensor.elem_type not in _ARRAY_TYPES:
            raise InputError(f"{name}: inputs of floats, ids or masks expected, found {described}")
        if len(tensor.shape) < 2:
            raise InputError(f"{name}: inputs with a batch axis and at least one more expected, found {described}")
    batches = {tensor.shape[0] for tensor in tensors if isinstance(tensor.shape[0], int)}
    if len(batches) > 1:
        raise InputError(f"{name}: one batch size for all inputs expected, found {sorted(batches)}")
    return ArrayInput(tensors, next(iter(batches), None))


def blank(tensors: Sequence[TensorType], shapes: Sequence[tuple[int, ...]]) -> dict[str, NDArray[Any]]:
    """One feed without content: zeros, and ones for ids and masks, since a mask of zeros leaves nothing to look at."""
    return {
        tensor.name: (np.ones if tensor.is_integer else np.zeros)(shape, tensor.dtype)
        for tensor, shape in zip(tensors, shapes, strict=True)
    }


def refuse_arrays(kind: InputKind, what: str) -> None:
    """Refuse what looks at pixels.

    Raises:
        InputError: The model takes something else.
    """
    if kind != "picture":
        raise InputError(f"{what}: for pictures; the model takes {kind} inputs")


def pack(arrays: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    """Inputs ``(N, ...)`` as the one array that travels, float32."""
    if len(arrays) == 1:
        return np.asarray(arrays[0], np.float32)
    if len({array.shape for array in arrays}) == 1:
        return np.stack(arrays, axis=1).astype(np.float32)
    return np.concatenate([array.reshape(len(array), -1) for array in arrays], axis=1).astype(np.float32)


def unpack(rows: Any, shapes: Sequence[tuple[int, ...]]) -> list[Any]:
    """The array that travels ``(N, ...)`` back to inputs, NumPy or torch alike.

    Args:
        rows: As `pack` makes it.
        shapes: Of one row of each input.
    """
    if len(shapes) == 1:
        return [rows]
    if len(set(shapes)) == 1:
        return [rows[:, place] for place in range(len(shapes))]
    ends = np.cumsum([math.prod(shape) for shape in shapes]).tolist()
    starts = [0, *ends[:-1]]
    return [
        rows[:, start:end].reshape(len(rows), *shape) for start, end, shape in zip(starts, ends, shapes, strict=True)
    ]


def _image_input(value: TensorType, name: str) -> ImageInput:
    axis = _channel_axis(value.shape)
    if axis is None:
        described = f"input {value.name!r} {onnx.TensorProto.DataType.Name(value.elem_type)} {list(value.shape)}"
        raise InputError(
            f"{name}: an image input with 1, 3 or 4 channels at axis 1 or 3 expected, found {described}; "
            "export the model with the number of channels fixed"
        )
    height, width = value.shape[2:] if axis == 1 else value.shape[1:3]
    channels, batch = value.shape[axis], value.shape[0]
    return ImageInput(
        tensor=value,
        layout="NCHW" if axis == 1 else "NHWC",
        channels=channels if isinstance(channels, int) else 0,
        size=(height, width) if isinstance(height, int) and isinstance(width, int) else None,
        batch=batch if isinstance(batch, int) else None,
    )


def _channel_axis(shape: Shape) -> int | None:
    """Axis of the channels: 3 or 1 of them before 4, axis 1 before axis 3."""
    for channels in _CHANNELS:
        for axis in (1, 3):
            if shape[axis] == channels:
                return axis
    return None
