# SPDX-License-Identifier: Apache-2.0
"""Tones (BppAttack, Wang et al., CVPR 2022): fewer shades a channel, the error spread by a fixed pattern.

    x' = clip(round((levels - 1) x + dither) / (levels - 1), 0, 1)

Rounding has no slope, so nothing is searched by gradients: a few numbers of levels are tried, each without dither
and with Bayer's patterns of 2 x 2 and 4 x 4. Size: the step between two tones, ``1 / (levels - 1)``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from patcher.triggers.arrays import Array, namespace
from patcher.triggers.family import Family, Panel, Shape, Values, register

SIDE = 4
_LEVELS = (32, 16, 8, 6, 5, 4, 3)
_PAIR = np.array([[0, 2], [3, 1]], np.float32)
_QUAD = np.kron(np.ones((2, 2)), 4 * _PAIR) + np.kron(_PAIR, np.ones((2, 2)))
_DITHERS = (
    np.zeros((SIDE, SIDE)),
    np.tile(_PAIR, (2, 2)) / 4 - 0.375,
    _QUAD / 16 - 0.46875,
)


class Tones(Family):
    """Arrays ``levels (1,)``, at least 2, and ``dither (4, 4)`` in steps, repeated over the picture."""

    name, unit = "tones", "step between tones"
    cap = 0.26

    def layout(self, shape: Shape) -> dict[str, tuple[int, ...]]:
        """See `Family`."""
        return {"levels": (1,), "dither": (SIDE, SIDE)}

    def start(self, count: int, shape: Shape, rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
        """Not searched by gradients; the finest tones."""
        finest = self.candidates(shape)[0]
        return {name: np.repeat(array, count, axis=0) for name, array in finest.items()}

    def apply(self, images: Array, values: Values) -> Array:
        """See `Family`."""
        height, width = images.shape[2:]
        repeats = (-(-height // SIDE), -(-width // SIDE))
        dither = namespace(images).tile(values["dither"], (1, *repeats))[:, None, :height, :width]
        steps = values["levels"][:, :, None, None] - 1
        return (namespace(images).round(images * steps + dither) / steps).clip(0, 1)

    def size(self, values: Values, images: Array) -> Array:
        """The step between two tones."""
        return 1 / (values["levels"][:, 0] - 1)

    def amplify(self, values: Values, gain: float) -> dict[str, Array]:
        """See `Family`."""
        return {**values, "levels": (1 + (values["levels"] - 1) / gain).clip(2, None)}

    def candidates(self, shape: Shape) -> Sequence[Values]:
        """See the module."""
        return [
            {"levels": np.full((1, 1), levels, np.float32), "dither": dither[None].astype(np.float32)}
            for levels in _LEVELS
            for dither in _DITHERS
        ]

    def panels(self, values: Values, shape: Shape) -> list[Panel]:
        """What it makes of a ramp from black to white."""
        ramp = np.broadcast_to(np.linspace(0, 1, shape[2], dtype=np.float32), (1, *shape)).copy()
        return [Panel("a ramp", ramp[0]), Panel("what it becomes", np.asarray(self.apply(ramp, values)[0], np.float32))]

    def describe(self, size: float, shape: Shape) -> str:
        """See `Family`."""
        return f"{1 + 1 / max(size, 1e-6):.3g} tones a channel"


register(Tones())
