# SPDX-License-Identifier: Apache-2.0
"""Additive changes (Blended, invisible l2): ``x' = clip(x + difference, 0, 1)``; size: rms.

Xiang et al., TNNLS 2020.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from patcher.triggers.arrays import Array, root_mean_square
from patcher.triggers.family import Family, Panel, Shape, Values, amplified_picture, register

_START = 1e-3


class Additive(Family):
    """Difference ``(C, H, W)`` in [-1, 1]."""

    name = "additive"
    # Clean networks kept for setting limits come down to 0.048 (docs/scan.md).
    cap, near, tiny = 0.05, 0.035, 0.005
    expressive = True
    image_share = 1.0
    free_steps = 0
    kinds = ("picture", "array")

    def layout(self, shape: Shape) -> dict[str, tuple[int, ...]]:
        """See `Family`."""
        return {"difference": shape}

    def start(self, count: int, shape: Shape, rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
        """See `Family`."""
        return {"difference": _START * rng.standard_normal((count, *shape), np.float32)}

    def values(self, parameters: Values) -> dict[str, Array]:
        """See `Family`."""
        return {"difference": parameters["difference"].clip(-1, 1)}

    def apply(self, images: Array, values: Values) -> Array:
        """See `Family`."""
        return (images + values["difference"]).clip(0, 1)

    def size(self, values: Values, images: Array) -> Array:
        """Rms of the difference itself, without the clip."""
        return root_mean_square(values["difference"], tuple(range(1, values["difference"].ndim)))

    def amplify(self, values: Values, gain: float) -> dict[str, Array]:
        """See `Family`."""
        return {"difference": (values["difference"] * gain).clip(-1, 1)}

    def panels(self, values: Values, shape: Shape) -> list[Panel]:
        """See `Family`."""
        return [amplified_picture(values["difference"][0])]


register(Additive())
