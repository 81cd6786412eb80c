# SPDX-License-Identifier: Apache-2.0
"""From pictures to the tensor the model expects.

Two steps, kept apart because triggers, masks and norms live in pixel space [0, 1]:

1. geometry, once per picture (`load_picture`): colour mode, resize of the shorter side to
   ``size / crop_pct``, centre crop (the convention of timm and torchvision), or both sides squashed;
2. arithmetic, once per batch (`Preprocess.to_input`): value range, colour order, ``(x - mean) / std``,
   layout. It is written with operators that NumPy and PyTorch share, so it is part of the
   differentiable model during calibration and of the ONNX Runtime feed afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from patcher.data.arrays import Arrays, resolve_arrays
from patcher.data.picture import as_shown
from patcher.data.preprocess_file import read_preprocess
from patcher.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

    from patcher.model.inputs import Layout
    from patcher.model.model import Model

Color = Literal["RGB", "BGR"]
ValueRange = Literal["0-1", "0-255"]

_WHITE = 255
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")


@dataclass(frozen=True)
class Preprocess:
    """Resolved preprocessing of one model.

    Attributes:
        channels: Colour channels of a picture: 1, 3 or 4.
        size: ``(height, width)`` in pixels, or ``None`` to take pictures as they are.
        mean: Per channel, in units of the value range after scaling to [0, 1].
        std: Per channel, same units.
        layout: Axis order of the model's input.
        color: Channel order of the model's input.
        range: ``0-1``, or ``0-255`` for models that take raw bytes.
        interpolation: Filter of the resize.
        crop_pct: Share of the resized shorter side that the centre crop keeps.
        crop: ``center``, or ``squash`` to resize both sides to `size` and cut nothing off.
    """

    channels: int = 3
    size: tuple[int, int] | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Layout = "NCHW"
    color: Color = "RGB"
    range: ValueRange = "0-1"
    interpolation: str = "bilinear"
    crop_pct: float = 1.0
    crop: Literal["center", "squash"] = "center"

    def __post_init__(self) -> None:
        for flag, values in (("--mean", self.mean), ("--std", self.std)):
            if len(values) not in (1, self.channels):
                expected = f"1 or {self.channels} values expected"
                raise InputError(f"{flag}: {expected} for a {self.channels}-channel input, found {len(values)}")
        if not all(np.isfinite(value) for value in (*self.mean, *self.std)) or min(self.std) <= 0:
            raise InputError(f"--mean/--std: finite values and std > 0 expected, found {self.mean} / {self.std}")
        if self.size is not None and min(self.size) < 1:
            raise InputError(f"--size: positive height and width expected, found {self.size}")
        if not 0 < self.crop_pct <= 1:
            raise InputError(f"--preprocess: crop_pct in (0, 1] expected, found {self.crop_pct}")
        if self.interpolation not in _INTERPOLATIONS:
            known = ", ".join(_INTERPOLATIONS)
            raise InputError(f"--preprocess: interpolation one of {known} expected, found {self.interpolation!r}")

    def to_input(self, images: Any) -> Any:
        """Turn pixels into the model's input.

        Args:
            images: float32 ``(N, C, H, W)`` in [0, 1], RGB; NumPy array or torch tensor.

        Returns:
            Same kind and dtype: ``(N, C, H, W)`` or ``(N, H, W, C)``, in the model's value range.
        """
        if self.color == "BGR":
            images = images[:, [2, 1, 0, *range(3, self.channels)]]
        if any(self.mean) or any(value != 1 for value in self.std):
            images = (images - _like(self.mean, images)) / _like(self.std, images)
        if self.range == "0-255":
            images = images * 255.0
        if self.layout == "NHWC":
            images = images.transpose(0, 2, 3, 1) if isinstance(images, np.ndarray) else images.permute(0, 2, 3, 1)
        return images

    def from_input(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Undo `to_input`: model input back to float32 pixels ``(N, C, H, W)``."""
        images = np.asarray(inputs, np.float32)
        if self.layout == "NHWC":
            images = images.transpose(0, 3, 1, 2)
        if self.range == "0-255":
            images = images / np.float32(255)
        images = images * _like(self.std, images) + _like(self.mean, images)
        if self.color == "BGR":
            images = images[:, [2, 1, 0, *range(3, self.channels)]]
        return np.ascontiguousarray(images, np.float32)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values, for the report and the model's metadata."""
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        if self.crop == "center":
            del values["crop"]  # what older files do not name
        return values

    def load_picture(self, path: Path) -> NDArray[np.uint8]:
        """Read one picture as uint8 ``(C, H, W)``, resized and cropped to `size` when that is set.

        Raises:
            InputError: The file is no picture Pillow can read.
        """
        return self.decode(path, str(path))

    def decode(self, source: Path | BinaryIO, name: str) -> NDArray[np.uint8]:
        """Decode one picture as `load_picture` does, from a file or from memory.

        Args:
            source: Path, or the encoded bytes as a stream.
            name: What messages call it.

        Raises:
            InputError: It is no picture Pillow can read.
        """
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(source) as file:
                picture = self._resized(as_shown(file, _MODES[self.channels]))
        except (
            UnidentifiedImageError,
            OSError,
            ValueError,
            SyntaxError,
            Image.DecompressionBombError,
        ) as error:
            raise InputError(f"{name}: not a picture that can be read ({_first_line(error)}); remove it") from error
        pixels = np.asarray(picture, np.uint8)
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)

    def _resized(self, picture: Image.Image) -> Image.Image:
        from PIL import Image

        if self.size is None or ((picture.height, picture.width) == self.size and self.crop_pct == 1):
            return picture
        height, width = self.size
        if self.crop == "squash":
            return picture.resize((width, height), Image.Resampling[self.interpolation.upper()])
        scale = max(height / picture.height, width / picture.width) / self.crop_pct
        resized = picture.resize(
            (max(width, round(picture.width * scale)), max(height, round(picture.height * scale))),
            Image.Resampling[self.interpolation.upper()],
        )
        left, top = (resized.width - width) // 2, (resized.height - height) // 2
        return resized.crop((left, top, left + width, top + height))


def resolve_preprocess(
    model: Model,
    *,
    file: str | os.PathLike[str] | None = None,
    size: tuple[int, int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    layout: Layout | None = None,
    color: Color | None = None,
    range: str | None = None,
) -> Preprocess | Arrays:
    """Combine flags, the JSON file and what the model's input says; a flag wins over the file.

    `size` stays ``None`` unless asked for: pictures of another size than the model's are refused
    rather than silently resized.

    Raises:
        InputError: The file or a value cannot be used, or contradicts the model's input.
    """
    from onnx import TensorProto

    flags = {"size": size, "mean": mean, "std": std, "layout": layout, "color": color, "range": range}
    if not model.is_picture:
        return resolve_arrays(model, {**flags, "file": file})
    if range not in (None, *get_args(ValueRange)):
        raise InputError(f"--range: {' or '.join(get_args(ValueRange))} expected of pictures, found {range!r}")
    values: dict[str, Any] = {
        "channels": model.channels,
        "layout": model.layout,
        "range": "0-255" if model.input.elem_type == TensorProto.UINT8 else "0-1",
    }
    if file is not None:
        values |= read_preprocess(file)
    values |= {key: value for key, value in flags.items() if value is not None}
    _check_mean(values)
    resolved = Preprocess(**values)
    if resolved.layout != model.layout:
        shape = list(model.input.shape)
        raise InputError(f"--layout {resolved.layout}: input {model.input.name!r} has shape {shape}, {model.layout}")
    if resolved.size is not None and model.image_size not in (None, resolved.size):
        raise InputError(f"--size: the model takes {model.image_size} pixels, found {resolved.size}")
    return resolved


def _check_mean(values: Mapping[str, Any]) -> None:
    """Refuse a mean in units of 255, with the numbers that were meant."""
    mean, std = values.get("mean", (0.0,)), values.get("std", (1.0,))
    if not all(np.isfinite(value) for value in (*mean, *std)) or (max(mean) <= 1 and min(mean) >= 0):
        return
    found = ",".join(f"{value:g}" for value in mean)
    remedy = ""
    if min(mean) >= 0 and max(mean) <= _WHITE:
        divided = ",".join(f"{value / _WHITE:.4g}" for value in mean)
        scaled = ",".join(f"{value / _WHITE:.4g}" for value in std)
        remedy = f"; in units of 255 give --mean {divided} "
        remedy += "--range 0-255" if set(std) == {1.0} else f"--std {scaled} --range 0-1"
    raise InputError(f"--mean: values from 0 to 1 expected, for pixels scaled to 0-1, found {found}{remedy}")


def _like(values: tuple[float, ...], images: Any) -> Any:
    """Per-channel values as ``(1, C, 1, 1)`` of the kind, dtype and device of `images`."""
    shaped = np.asarray(values, np.float32).reshape(1, -1, 1, 1)
    if isinstance(images, np.ndarray):
        return shaped
    import torch

    return torch.from_numpy(shaped).to(images)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
