# SPDX-License-Identifier: Apache-2.0
"""Patches (BadNets, Trojan, one pixel): ``x' = (1 - mask) x + mask pattern``; size: pixels covered.

Of arrays places: a point of a cloud, a pixel of a frame, with all that the first axis holds there.

Neural Cleanse (Wang et al., S&P 2019, Sec. IV).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from patcher.triggers.arrays import Array, sigmoid
from patcher.triggers.family import Family, Panel, Shape, Values, register


class Patch(Family):
    """Mask ``(1, H, W)`` and pattern ``(C, H, W)``, both in [0, 1]; of arrays ``(1, ...)`` and ``(C, ...)``."""

    name, unit = "patch", "pixels covered"
    rate = 0.25
    # Clean networks kept for setting limits come down to 4.5 % of a picture (docs/scan.md).
    cap, near, tiny = 0.1, 0.033, 0.01
    exponent = 1
    expressive = True
    image_share = 1.0
    free_steps = 0
    kinds = ("picture", "array")

    def layout(self, shape: Shape) -> dict[str, tuple[int, ...]]:
        """See `Family`."""
        return {"mask": _places(shape), "pattern": shape}

    def start(self, count: int, shape: Shape, rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
        """See `Family`."""
        return {name: rng.standard_normal((count, *size), np.float32) for name, size in self.layout(shape).items()}

    def values(self, parameters: Values) -> dict[str, Array]:
        """See `Family`."""
        return {name: sigmoid(array) for name, array in parameters.items()}

    def apply(self, images: Array, values: Values) -> Array:
        """See `Family`."""
        mask = values["mask"]
        return (1 - mask) * images + mask * values["pattern"]

    def size(self, values: Values, images: Array) -> Array:
        """Sum of the mask."""
        return values["mask"].sum(tuple(range(1, values["mask"].ndim)))

    def largest(self, shape: Shape) -> float:
        """All pixels."""
        return float(math.prod(_places(shape)))

    def amplify(self, values: Values, gain: float) -> dict[str, Array]:
        """See `Family`."""
        return {**values, "mask": (values["mask"] * gain).clip(0, 1)}

    def panels(self, values: Values, shape: Shape) -> list[Panel]:
        """See `Family`."""
        mask, pattern = values["mask"][0], values["pattern"][0]
        return [Panel("mask", mask), Panel("mask x pattern", mask * pattern)]

    def describe(self, size: float, shape: Shape) -> str:
        """See `Family`."""
        return f"{size:.1f} of {math.prod(_places(shape))} {'pixels' if len(shape) == 3 else 'places'} covered"


def _places(shape: Shape) -> Shape:
    """Shape of a value a place: the first axis is the place's own content, but of a table's row."""
    return (1, *shape[1:]) if len(shape) > 1 else shape


register(Patch())
