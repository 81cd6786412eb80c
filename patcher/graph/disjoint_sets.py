# SPDX-License-Identifier: Apache-2.0
"""Classes of equal labels (union-find); the lowest label of a class stands for it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]


class DisjointSets:
    """Labels 0 to `count` - 1, each alone at first.

    Args:
        count: Number of labels.
    """

    def __init__(self, count: int) -> None:
        self._parent = np.arange(count, dtype=np.int64)

    def copy(self) -> DisjointSets:
        """The same classes, independent of these."""
        same = DisjointSets(0)
        same._parent = self._parent.copy()
        return same

    def root(self, label: int) -> int:
        """The label that stands for the class of `label`."""
        while self._parent[label] != label:
            label = int(self._parent[label])
        return label

    def roots(self, labels: Labels) -> Labels:
        """`root` of each label, of the shape of `labels`."""
        found = self._parent[labels]
        while (found != self._parent[found]).any():
            found = self._parent[found]
        return found

    def unite(self, first: int, second: int) -> None:
        """Join the classes of two labels."""
        one, other = self.root(first), self.root(second)
        self._parent[max(one, other)] = min(one, other)
