# SPDX-License-Identifier: Apache-2.0
"""Warps (WaNet, Nguyen and Tran, ICLR 2021): each pixel is taken from a place beside it.

    x'(p) = x(p + displacement(p)), bilinear;    displacement = B_H controls B_W', B: bicubic, from k points to n

`POINTS` control points a side. The edge repeats outside the picture. Size: rms length of the displacement, in pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from patcher.triggers.arrays import Array, along, integers, like, namespace
from patcher.triggers.family import Family, Panel, Shape, Values, register

POINTS = 4
_START = 1e-2  # pixels
_CUBIC = -0.75  # of the cubic convolution (Keys 1981), as image libraries have it


class Warp(Family):
    """Displacements ``(2, k, k)`` of control points, down and right, in pixels."""

    name, unit = "warp", "pixels of displacement"
    rate = 0.1
    cap = 0.04

    def layout(self, shape: Shape) -> dict[str, tuple[int, ...]]:
        """See `Family`."""
        return {"controls": (2, POINTS, POINTS)}

    def start(self, count: int, shape: Shape, rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
        """See `Family`."""
        return {"controls": _START * rng.standard_normal((count, 2, POINTS, POINTS), np.float32)}

    def apply(self, images: Array, values: Values) -> Array:
        """See `Family`."""
        count, channels, height, width = images.shape
        field = _field(values["controls"], (height, width))
        rows = (field[:, 0] + like(np.arange(height)[:, None], images)).clip(0, height - 1)
        columns = (field[:, 1] + like(np.arange(width), images)).clip(0, width - 1)
        xp = namespace(images)
        top, left = (xp.floor(part) for part in (rows, columns))
        down, right = (rows - top)[..., None], (columns - left)[..., None]
        pixels = xp.moveaxis(images, 1, 3).reshape(-1, channels)
        first = along(np.arange(count)[:, None, None] * height * width, images)

        def at(row: Array, column: Array) -> Any:
            row, column = row.clip(0, height - 1), column.clip(0, width - 1)
            return pixels[first + integers(row) * width + integers(column)]

        upper = (1 - right) * at(top, left) + right * at(top, left + 1)
        lower = (1 - right) * at(top + 1, left) + right * at(top + 1, left + 1)
        return xp.moveaxis((1 - down) * upper + down * lower, 3, 1)

    def size(self, values: Values, images: Array) -> Array:
        """Rms length of the displacement, in pixels."""
        field = _field(values["controls"], images.shape[2:])
        return ((field * field).sum(1).mean((1, 2)) + 1e-12) ** 0.5

    def largest(self, shape: Shape) -> float:
        """The shorter side."""
        return float(min(shape[1:]))

    def amplify(self, values: Values, gain: float) -> dict[str, Array]:
        """See `Family`."""
        return {"controls": values["controls"] * gain}

    def panels(self, values: Values, shape: Shape) -> list[Panel]:
        """See `Family`."""
        return [Panel("each pixel moves along its arrow", -_field(values["controls"], shape[1:])[0], "arrows")]

    def describe(self, size: float, shape: Shape) -> str:
        """See `Family`."""
        return f"pixels move by {size:.2g} (rms)"


def _field(controls: Array, size: tuple[int, ...]) -> Array:
    """Control points ``(G, 2, k, k)`` to a displacement a pixel ``(G, 2, H, W)``."""
    down, right = (like(_interpolation(length), controls) for length in size)
    return down @ controls @ right.T


def _interpolation(length: int) -> NDArray[np.float64]:
    """Bicubic weights ``(length, POINTS)`` from control points to pixels, corner on corner."""
    places = np.linspace(0, POINTS - 1, length)
    first = np.floor(places).astype(int)
    weights = np.zeros((length, POINTS))
    for step in (-1, 0, 1, 2):
        distance = np.abs(places - first - step)
        near = ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance**2 + 1
        far = ((_CUBIC * distance - 5 * _CUBIC) * distance + 8 * _CUBIC) * distance - 4 * _CUBIC
        point = (first + step).clip(0, POINTS - 1)
        np.add.at(weights, (np.arange(length), point), np.where(distance <= 1, near, far))
    return weights


register(Warp())
