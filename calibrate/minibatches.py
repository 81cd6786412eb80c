# SPDX-License-Identifier: Apache-2.0
"""Endless mini-batches in a seeded order."""

from __future__ import annotations

import numpy as np

from patcher.data.clean_set import Indices


class Minibatches:
    """Every epoch is a new permutation of the indices; a short rest joins the next epoch.

    Args:
        indices: int64 ``(n,)``, at least one.
        rng: Order of the indices.
    """

    def __init__(self, indices: Indices, rng: np.random.Generator) -> None:
        self._indices, self._rng = indices, rng
        self._waiting = np.empty(0, np.int64)

    def take(self, count: int) -> Indices:
        """The next `count` indices; more than there are repeats some."""
        while len(self._waiting) < count:
            self._waiting = np.concatenate([self._waiting, self._rng.permutation(self._indices)])
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken
