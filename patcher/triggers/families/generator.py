# SPDX-License-Identifier: Apache-2.0
"""Generators (sample-specific triggers: ISSBA, LIRA, input-aware): a small network makes the change from the picture.

    x' = clip(x + strength tanh(second * relu(first * (x - mean of x))), 0, 1)

Two convolutions, 5 x 5 to eight channels and 3 x 3 back. Size: rms of the change over clean pictures.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from patcher.triggers.arrays import Array, namespace
from patcher.triggers.convolution import convolve
from patcher.triggers.family import Family, Panel, Shape, Values, amplified_picture, register

HIDDEN, FIRST, SECOND = 8, 5, 3
_START = 0.02  # rms of the change at first, about
_LARGEST = 0.3


class Generator(Family):
    """Arrays ``first (8, C, 5, 5)``, ``second (C, 8, 3, 3)`` and ``strength (1,)``."""

    name = "generator"
    rate = 0.02
    cap = 0.1

    def layout(self, shape: Shape) -> dict[str, tuple[int, ...]]:
        """See `Family`."""
        channels = shape[0]
        return {
            "first": (HIDDEN, channels, FIRST, FIRST),
            "second": (channels, HIDDEN, SECOND, SECOND),
            "strength": (1,),
        }

    def start(self, count: int, shape: Shape, rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
        """See `Family`."""
        drawn = {
            name: rng.standard_normal((count, *size), np.float32) * np.float32(2 / math.sqrt(math.prod(size[1:])))
            for name, size in self.layout(shape).items()
        }
        return {**drawn, "strength": np.full((count, 1), _START, np.float32)}

    def values(self, parameters: Values) -> dict[str, Array]:
        """See `Family`."""
        return {**parameters, "strength": parameters["strength"].clip(-_LARGEST, _LARGEST)}

    def apply(self, images: Array, values: Values) -> Array:
        """See `Family`."""
        plain = images - images.mean((2, 3))[:, :, None, None]
        hidden = convolve(plain, values["first"]).clip(0, None)
        change = namespace(images).tanh(convolve(hidden, values["second"]))
        return (images + change * values["strength"][:, :, None, None]).clip(0, 1)

    def amplify(self, values: Values, gain: float) -> dict[str, Array]:
        """See `Family`."""
        return {**values, "strength": (values["strength"] * gain).clip(-_LARGEST, _LARGEST)}

    def panels(self, values: Values, shape: Shape) -> list[Panel]:
        """What it makes of a grey edge: the change itself depends on the picture."""
        edge = np.full((1, *shape), 0.4, np.float32)
        edge[..., shape[2] // 2 :] = 0.6
        return [amplified_picture((self.apply(edge, values) - edge)[0], "change of an edge")]


register(Generator())
