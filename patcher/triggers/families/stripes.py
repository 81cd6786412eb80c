# SPDX-License-Identifier: Apache-2.0
"""Stripes (SIG and relatives): ``x' = clip(x + rows + columns, 0, 1)``, constant along one side each; size: rms.

The sinusoid of SIG (Barni et al., ICIP 2019) is one of them, whatever its period, phase and form.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from patcher.triggers.arrays import Array, root_mean_square
from patcher.triggers.family import Family, Panel, Shape, Values, amplified_picture, register

_START = 1e-3


class Stripes(Family):
    """Differences ``(C, H, 1)`` a row and ``(C, 1, W)`` a column, in [-1, 1]."""

    name = "stripes"
    cap = 0.05

    def layout(self, shape: Shape) -> dict[str, tuple[int, ...]]:
        """See `Family`."""
        return {"rows": (shape[0], shape[1], 1), "columns": (shape[0], 1, shape[2])}

    def start(self, count: int, shape: Shape, rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
        """See `Family`."""
        return {
            name: _START * rng.standard_normal((count, *size), np.float32) for name, size in self.layout(shape).items()
        }

    def values(self, parameters: Values) -> dict[str, Array]:
        """See `Family`."""
        return {name: array.clip(-1, 1) for name, array in parameters.items()}

    def apply(self, images: Array, values: Values) -> Array:
        """See `Family`."""
        return (images + values["rows"] + values["columns"]).clip(0, 1)

    def size(self, values: Values, images: Array) -> Array:
        """Rms of the difference itself, without the clip."""
        return root_mean_square(values["rows"] + values["columns"], (1, 2, 3))

    def amplify(self, values: Values, gain: float) -> dict[str, Array]:
        """See `Family`."""
        return {name: (array * gain).clip(-1, 1) for name, array in values.items()}

    def panels(self, values: Values, shape: Shape) -> list[Panel]:
        """See `Family`."""
        return [amplified_picture((values["rows"] + values["columns"])[0])]


register(Stripes())
