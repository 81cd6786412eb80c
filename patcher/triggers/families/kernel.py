# SPDX-License-Identifier: Apache-2.0
"""Kernels (sharpening, blur, edges): a convolution of each channel, ``x' = clip(x + weights * x, 0, 1)``.

The edge repeats outside the picture. Size: rms of the change over clean pictures.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from patcher.triggers.arrays import Array, namespace
from patcher.triggers.convolution import convolve
from patcher.triggers.family import Family, Panel, Shape, Values, amplified_picture, register

SIDE = 5
_START = 1e-3


class Kernel(Family):
    """Weights ``(C, 5, 5)`` added to the identity, in [-2, 2]."""

    name = "kernel"
    rate = 0.01
    cap = 0.1

    def layout(self, shape: Shape) -> dict[str, tuple[int, ...]]:
        """See `Family`."""
        return {"weights": (shape[0], SIDE, SIDE)}

    def start(self, count: int, shape: Shape, rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
        """See `Family`."""
        return {"weights": _START * rng.standard_normal((count, shape[0], SIDE, SIDE), np.float32)}

    def values(self, parameters: Values) -> dict[str, Array]:
        """See `Family`."""
        return {"weights": parameters["weights"].clip(-2, 2)}

    def apply(self, images: Array, values: Values) -> Array:
        """See `Family`."""
        count, channels, height, width = images.shape
        weights = values["weights"][:, :, None]
        if len(weights) < count:
            weights = namespace(images).tile(weights, (count, 1, 1, 1, 1))
        # Each channel of each picture is a picture of its own.
        planes = images.reshape(count * channels, 1, height, width)
        change = convolve(planes, weights.reshape(count * channels, 1, 1, SIDE, SIDE))
        return (images + change.reshape(images.shape)).clip(0, 1)

    def amplify(self, values: Values, gain: float) -> dict[str, Array]:
        """See `Family`."""
        return {"weights": (values["weights"] * gain).clip(-2, 2)}

    def panels(self, values: Values, shape: Shape) -> list[Panel]:
        """See `Family`."""
        return [amplified_picture(values["weights"][0], "kernel less the identity")]


register(Kernel())
