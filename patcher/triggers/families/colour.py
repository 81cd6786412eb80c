# SPDX-License-Identifier: Apache-2.0
"""Colour filters (tints, photo filters): a matrix over the channels, an offset and a curve a channel.

    x' = clip((I + matrix) x + offset, 0, 1) ^ exp(curve)

Size: rms of the change over clean pictures.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from patcher.triggers.arrays import Array, namespace
from patcher.triggers.family import Family, Panel, Shape, Values, register

_START = 1e-2
_SMALLEST = 1e-4  # a power has no slope at 0
_CHART = np.array([0.0, 0.25, 0.5, 0.75, 1.0], np.float32)
_SQUARE = 6  # pixels a colour of the chart


class Colour(Family):
    """Arrays ``matrix (C, C)``, ``offset (C,)`` and ``curve (C,)``, all 0 for no change."""

    name = "colour"
    rate = 0.05
    cap = 0.12

    def layout(self, shape: Shape) -> dict[str, tuple[int, ...]]:
        """See `Family`."""
        channels = shape[0]
        return {"matrix": (channels, channels), "offset": (channels,), "curve": (channels,)}

    def start(self, count: int, shape: Shape, rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
        """See `Family`."""
        return {
            name: _START * rng.standard_normal((count, *size), np.float32) for name, size in self.layout(shape).items()
        }

    def values(self, parameters: Values) -> dict[str, Array]:
        """See `Family`."""
        return {name: array.clip(-2, 2) for name, array in parameters.items()}

    def apply(self, images: Array, values: Values) -> Array:
        """See `Family`."""
        count, channels = images.shape[:2]
        flat = images.reshape(count, channels, -1)
        mixed = flat + values["matrix"] @ flat + values["offset"][:, :, None]
        curved = mixed.clip(_SMALLEST, 1) ** namespace(images).exp(values["curve"])[:, :, None]
        return curved.reshape(images.shape)

    def amplify(self, values: Values, gain: float) -> dict[str, Array]:
        """See `Family`."""
        return {name: (array * gain).clip(-2, 2) for name, array in values.items()}

    def panels(self, values: Values, shape: Shape) -> list[Panel]:
        """A chart of colours: each square above as it is, below as it becomes."""
        channels = shape[0]
        steps = len(_CHART)
        planes = np.meshgrid(*[_CHART] * min(channels, 3), indexing="ij")
        colours = np.stack([planes[min(channel, 2)].ravel() for channel in range(channels)])
        chart = colours.reshape(1, channels, steps, -1)
        parts = []
        for title, pixels in (("colours", chart), ("what they become", self.apply(chart, values))):
            large = pixels[0].repeat(_SQUARE, axis=1).repeat(_SQUARE, axis=2)
            parts.append(Panel(title, np.asarray(large, np.float32)))
        return parts


register(Colour())
