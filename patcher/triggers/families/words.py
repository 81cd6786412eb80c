# SPDX-License-Identifier: Apache-2.0
"""Words put in front of a sentence (Wallace et al., "Universal Adversarial Triggers", EMNLP 2019); size: words.

Rows are token ids ``(N, L)``, or ids with masks stacked behind them ``(N, inputs, L)``. What stands in the sentence
moves back, what no longer fits falls off, and masks count the new words as there.

There are no steps between words, so that this family is searched through the gradient of the embedding
(`patcher.calibrate.scan.words`) instead of by moving its values.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from patcher.triggers.arrays import Array, namespace
from patcher.triggers.family import Family, Panel, Shape, Values, register

LONGEST = 4  # words; chosen, not measured
_NONE = -1.0


class Words(Family):
    """Token ids ``(LONGEST,)``, -1 behind the last one."""

    name, unit = "words", "words"
    cap, tiny = 0.5, 0.25
    exponent = 1
    expressive = False
    kinds = ("tokens",)

    def layout(self, shape: Shape) -> dict[str, tuple[int, ...]]:
        """See `Family`."""
        return {"tokens": (LONGEST,)}

    def start(self, count: int, shape: Shape, rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
        """See `Family`: no words."""
        return {"tokens": np.full((count, LONGEST), _NONE, np.float32)}

    def apply(self, images: Array, values: Values) -> Array:
        """See `Family`; one trigger for all rows."""
        tokens = [float(token) for token in values["tokens"][0] if float(token) >= 0]
        if not tokens:
            return images
        count, made = len(tokens), namespace(images)
        front = made.ones_like(images[..., :count])
        ids = front if images.ndim == 2 else front[:, 0]
        for place, token in enumerate(tokens):
            ids[..., place] = token
        moved = (front, images[..., : images.shape[-1] - count])
        return np.concatenate(moved, axis=-1) if isinstance(images, np.ndarray) else made.cat(moved, dim=-1)

    def size(self, values: Values, images: Array) -> Array:
        """Number of words."""
        return (values["tokens"] >= 0).sum(1)

    def largest(self, shape: Shape) -> float:
        """The longest that is searched."""
        return float(LONGEST)

    def amplify(self, values: Values, gain: float) -> dict[str, Array]:
        """See `Family`: words have no strength."""
        return dict(values)

    def panels(self, values: Values, shape: Shape) -> list[Panel]:
        """See `Family`: nothing to see."""
        return []

    def describe(self, size: float, shape: Shape) -> str:
        """See `Family`."""
        return f"{size:.0f} words in front"


def as_values(tokens: Sequence[int]) -> dict[str, NDArray[np.float32]]:
    """The values of one trigger of these words, at most `LONGEST`."""
    return {"tokens": np.array([*tokens, *[_NONE] * (LONGEST - len(tokens))], np.float32)}


register(Words())
