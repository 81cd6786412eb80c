# SPDX-License-Identifier: Apache-2.0
"""Waves (SIG at an angle, chessboards, triggers in the frequency domain): a few modes of the real Fourier basis.

    x' = clip(x + B_H c B_W', 0, 1),    B_n: columns 1, cos, sin, ... of rms 1, so that c is in rms
    size = sum over pairs of frequencies of the rms over channels of their cos and sin coefficients

A sum of amplitudes where the others take the root of a sum of squares: one mode has its own rms as size, a change
spread over the spectrum is large. That keeps the modes few, and so does what the search moves: signed square roots
of the coefficients, which let those with a steady gradient outrun the rest.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from patcher.triggers.arrays import Array, like
from patcher.triggers.family import Family, Panel, Shape, Values, amplified_picture, register

_START = 1e-2
_SMALLEST = 1e-12


class Waves(Family):
    """Coefficients ``(C, H, W)`` in [-1, 1]."""

    name = "waves"
    cap = 0.08

    def layout(self, shape: Shape) -> dict[str, tuple[int, ...]]:
        """See `Family`."""
        return {"coefficients": shape}

    def start(self, count: int, shape: Shape, rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
        """See `Family`."""
        return {"coefficients": _START * rng.standard_normal((count, *shape), np.float32)}

    def values(self, parameters: Values) -> dict[str, Array]:
        """See `Family`."""
        roots = parameters["coefficients"]
        return {"coefficients": (roots * abs(roots)).clip(-1, 1)}

    def apply(self, images: Array, values: Values) -> Array:
        """See `Family`."""
        return (images + self._waves(values["coefficients"])).clip(0, 1)

    def size(self, values: Values, images: Array) -> Array:
        """See the module."""
        coefficients = values["coefficients"]
        energy = (coefficients * coefficients).mean(1)
        down, right = (like(_same_frequency(length), energy) for length in energy.shape[1:])
        return ((down.T @ energy @ right + _SMALLEST) ** 0.5).sum((1, 2))

    def amplify(self, values: Values, gain: float) -> dict[str, Array]:
        """See `Family`."""
        return {"coefficients": (values["coefficients"] * gain).clip(-1, 1)}

    def panels(self, values: Values, shape: Shape) -> list[Panel]:
        """See `Family`."""
        return [amplified_picture(self._waves(values["coefficients"])[0])]

    @staticmethod
    def _waves(coefficients: Array) -> Array:
        down, right = (like(_basis(length), coefficients) for length in coefficients.shape[2:])
        return down @ coefficients @ right.T


def _frequencies(length: int) -> NDArray[np.int64]:
    """Frequency of each column of `_basis`: 0, 1, 1, 2, 2, ..."""
    return (np.arange(length) + 1) // 2


def _basis(length: int) -> NDArray[np.float64]:
    """Columns cos and sin of rising frequency ``(length, length)``, orthogonal, of rms 1."""
    angles = 2 * np.pi * np.outer(np.arange(length), _frequencies(length)) / length
    waves = np.where(np.arange(length) % 2, np.cos(angles), np.sin(angles))
    waves[:, 0] = 1
    return np.asarray(waves / np.sqrt((waves**2).mean(axis=0)))


def _same_frequency(length: int) -> NDArray[np.float64]:
    """Which columns belong to which frequency, ``(length, frequencies)`` of 0 and 1."""
    frequencies = _frequencies(length)
    return np.asarray(frequencies[:, None] == np.arange(frequencies.max() + 1), np.float64)


register(Waves())
