# SPDX-License-Identifier: Apache-2.0
"""Resize as one weight matrix per axis.

Every mode of the standard is linear in the input and separable: along an axis the output is
``W @ x`` with a matrix ``W`` (output length, input length) that depends on lengths and attributes
only. That gives all modes, ranks and gradients at once. Coordinates are computed in float32, as ONNX
Runtime does, because nearest neighbours depend on how they round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patcher.errors import UnsupportedGraphError
from patcher.graph.operators.registry import operator

_HALF = np.float32(0.5)
_NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


@dataclass(frozen=True)
class _Axis:
    """How one axis is resized; see the standard's Resize for the fields' meaning."""

    length: int
    target: int
    scale: float
    mode: str
    coordinates: str
    nearest_mode: str
    cubic: float
    antialias: bool
    exclude_outside: bool
    extrapolation: float
    region: tuple[float, float]


@operator("Resize", host=("roi", "scales", "sizes"))
def resize(
    x: Tensor,
    roi: Sequence[float] | None = None,
    scales: Sequence[float] | None = None,
    sizes: Sequence[int] | None = None,
    *,
    antialias: int = 0,
    axes: Sequence[int] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Tensor:
    """Interpolate to given scales or sizes."""
    axes = list(range(x.dim())) if axes is None else [axis % x.dim() for axis in axes]
    lengths = [x.shape[axis] for axis in axes]
    factors, targets = _targets(lengths, scales, sizes, keep_aspect_ratio_policy)
    if coordinate_transformation_mode in ("align_corners", "tf_crop_and_resize"):
        _check_whole(lengths, factors, targets)
    for place, axis in enumerate(axes):
        region = (roi[place], roi[place + len(axes)]) if roi else (0.0, 1.0)
        if targets[place] == lengths[place] and factors[place] == 1.0 and region == (0.0, 1.0):
            continue
        if targets[place] == lengths[place] and factors[place] != 1.0:
            raise UnsupportedGraphError(
                f"scale {factors[place]:g} keeps length {lengths[place]}: runtimes disagree there"
            )
        entry = _Axis(
            length=lengths[place],
            target=targets[place],
            scale=factors[place],
            mode=mode,
            coordinates=coordinate_transformation_mode,
            nearest_mode=nearest_mode,
            cubic=cubic_coeff_a,
            antialias=bool(antialias),
            exclude_outside=bool(exclude_outside),
            extrapolation=extrapolation_value,
            region=region,
        )
        x = _apply(x, axis, entry)
    return x


def _targets(
    lengths: Sequence[int], scales: Sequence[float] | None, sizes: Sequence[int] | None, policy: str
) -> tuple[list[float], list[int]]:
    """Scale and length of every resized axis."""
    if sizes:
        factors = [size / length for size, length in zip(sizes, lengths, strict=True)]
        if policy == "stretch":
            return factors, [int(size) for size in sizes]
        if policy not in ("not_larger", "not_smaller"):
            raise UnsupportedGraphError(f"keep_aspect_ratio_policy {policy!r} is not known")
        factor = min(factors) if policy == "not_larger" else max(factors)
        return [factor] * len(lengths), [int(factor * length + 0.5) for length in lengths]
    if not scales:
        raise UnsupportedGraphError("scales or sizes expected, found neither")
    return list(scales), [
        int(np.floor(np.float32(length) * np.float32(scale))) for length, scale in zip(lengths, scales, strict=True)
    ]


def _check_whole(lengths: Sequence[int], factors: Sequence[float], targets: Sequence[int]) -> None:
    """Refuse scales that give a broken length where the standard and ONNX Runtime disagree about it."""
    for length, factor, target in zip(lengths, factors, targets, strict=True):
        if abs(length * factor - target) > 1e-3:
            raise UnsupportedGraphError(f"a scale that gives a whole length expected, found {length} * {factor:g}")


def _apply(x: Tensor, axis: int, entry: _Axis) -> Tensor:
    weights, constant = _matrix(entry)
    if entry.mode == "nearest" and constant is None:
        return x.index_select(axis, torch.from_numpy(weights.argmax(1)).to(x.device))
    if not x.is_floating_point():
        raise UnsupportedGraphError(f"a float tensor expected for mode {entry.mode!r}, found {x.dtype}")
    matrix = torch.from_numpy(weights).to(x.device, x.dtype)
    result = torch.matmul(x.movedim(axis, -1), matrix.t())
    if constant is not None:
        result = result + torch.from_numpy(constant).to(x.device, x.dtype)
    return result.movedim(-1, axis)


@lru_cache(maxsize=256)
def _matrix(entry: _Axis) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Weights (target, length), and what is added where coordinates lie outside the cropped region."""
    original = _coordinates(entry)
    if entry.mode == "nearest" and entry.coordinates == "half_pixel_symmetric":
        _check_clear(original, entry)
    weights = np.zeros((entry.target, entry.length))
    for row, place in enumerate(original):
        _fill(weights[row], float(place), entry)
    if entry.coordinates != "tf_crop_and_resize":
        return weights, None
    outside = (original < 0) | (original > entry.length - 1)
    weights[outside] = 0.0
    return weights, np.where(outside, entry.extrapolation, 0.0)


def _check_clear(original: NDArray[np.float32], entry: _Axis) -> None:
    """Refuse places so near to a border between neighbours that rounding decides; runtimes round differently."""
    steps = original if entry.nearest_mode in ("floor", "ceil") else original - _HALF
    if bool((np.abs(steps - np.round(steps)) < 1e-4).any()):
        raise UnsupportedGraphError("nearest neighbours of half_pixel_symmetric places that are not ties expected")


def _coordinates(entry: _Axis) -> NDArray[np.float32]:
    """Where each output element lies in the input."""
    place = np.arange(entry.target, dtype=np.float32)
    scale = np.float32(entry.scale)
    span, full = np.float32(entry.length - 1), np.float32(entry.target)
    stretched = scale * np.float32(entry.length)
    mode = entry.coordinates
    if mode == "asymmetric":
        return place / scale
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and entry.target > 1):
        return (place + _HALF) / scale - _HALF
    if mode == "pytorch_half_pixel":
        return np.zeros_like(place)
    if mode == "half_pixel_symmetric":
        offset = np.float32(entry.length) / 2 * (1 - full / stretched)
        return np.float32(offset) + (place + _HALF) / scale - _HALF
    if mode == "align_corners":
        return place * span / (full - 1) if entry.target > 1 else np.zeros_like(place)
    if mode == "tf_crop_and_resize":
        first, last = (np.float32(bound) for bound in entry.region)
        if entry.target == 1:
            return np.full_like(place, _HALF * (first + last) * span)
        return first * span + place * (last - first) * span / (full - 1)
    raise UnsupportedGraphError(f"coordinate_transformation_mode {mode!r} is not known")


def _fill(row: NDArray[np.float64], place: float, entry: _Axis) -> None:
    """Write one row of weights; neighbours beyond the border count as the border element."""
    left = int(np.floor(place))
    ratio = place - left
    if entry.mode == "nearest":
        neighbours, weights = np.array([_nearest(left, ratio, entry.nearest_mode)]), np.ones(1)
    else:
        shrink = min(entry.scale, 1.0) if entry.antialias else 1.0
        reach = {"linear": 1.0, "cubic": 2.0}.get(entry.mode)
        if reach is None:
            raise UnsupportedGraphError(f"mode {entry.mode!r} is not known")
        margin = int(np.ceil(reach / shrink))
        offsets = np.arange(-margin + 1, margin + 1)
        distance = np.abs(offsets - ratio) * shrink
        weights = np.maximum(0.0, 1.0 - distance) if entry.mode == "linear" else _cubic(distance, entry.cubic)
        neighbours = left + offsets
    inside = (neighbours >= 0) & (neighbours < entry.length)
    if entry.exclude_outside and entry.mode != "nearest":
        weights = weights * inside
    np.add.at(row, np.clip(neighbours, 0, entry.length - 1), weights / weights.sum())


def _nearest(left: int, ratio: float, nearest_mode: str) -> int:
    if nearest_mode not in _NEAREST:
        raise UnsupportedGraphError(f"nearest_mode {nearest_mode!r} is not known")
    if ratio == 0.0 or nearest_mode == "floor":
        return left
    if nearest_mode == "ceil":
        return left + 1
    upper = ratio > 0.5 if nearest_mode == "round_prefer_floor" else ratio >= 0.5
    return left + int(upper)


def _cubic(distance: NDArray[np.float64], a: float) -> NDArray[np.float64]:
    """Keys' cubic convolution kernel at given distances."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
