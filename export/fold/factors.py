# SPDX-License-Identifier: Apache-2.0
"""The factor of every channel: bounds say what they are, sums say which must agree.

A bound fixes the factors of its tensor. A sum asks for one factor on both sides; it gets it where one side is still
free or both are equal, else the operand is rescaled: one pass over it, by ``inside / outside``. Residual streams
whose sites share their bounds never need one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from patcher.graph.disjoint_sets import DisjointSets
from patcher.graph.scale_labels import UNSCALED, Join, Labels

Factor = NDArray[np.float64]


class Factors:
    """Equivalence classes of labels, each with a factor or free.

    Args:
        count: Number of labels.
        fixed: Labels whose factor is 1.
    """

    def __init__(self, count: int, fixed: Iterable[int]) -> None:
        self._classes = DisjointSets(count)
        self._value = np.full(count, np.nan)
        self._value[[UNSCALED, *fixed]] = 1.0

    def roots(self, labels: Labels) -> Labels:
        """The representative of each label's class."""
        return self._classes.roots(labels)

    def of(self, labels: Labels) -> Factor:
        """Factors; 1 where nothing decides."""
        value: Factor = self._value[self.roots(labels)]
        return np.where(np.isnan(value), 1.0, value)

    def set(self, labels: Labels, factor: Factor) -> bool:
        """Give labels their factors; False, and nothing changes, where they have others."""
        roots, before = self.roots(labels), self._value.copy()
        wanted = np.broadcast_to(factor, labels.shape)
        self._value[roots] = np.where(np.isnan(before[roots]), wanted, before[roots])
        if (self._value[roots] == wanted).all():
            return True
        self._value = before
        return False

    def unite(self, left: Labels, right: Labels) -> bool:
        """Make classes equal; False, and nothing changes, where their factors differ."""
        before = self._classes.copy(), self._value.copy()
        for one, other in zip(left.tolist(), right.tolist(), strict=True):
            first, second = self._classes.root(one), self._classes.root(other)
            known = self._value[first], self._value[second]
            if first != second and not np.isnan(known).any() and known[0] != known[1]:
                self._classes, self._value = before
                return False
            # The lower label stands for the class, so that UNSCALED always does.
            self._classes.unite(first, second)
            self._value[min(first, second)] = known[0] if np.isnan(known[1]) else known[1]
        return True


def settle_joins(
    factors: Factors, joins: Iterable[Join], silenced: Mapping[tuple[int, int], Factor]
) -> dict[tuple[int, int], Factor]:
    """Make sums agree.

    Args:
        factors: The factors; sums unite classes in it.
        joins: Operands of sums, in graph order.
        silenced: By node and operand, 0 for channels that must not enter the sum, else 1.

    Returns:
        By node and operand, what the operand must be multiplied with.
    """
    apart = [join for join in joins if not factors.unite(join.inside, join.outside)]
    gains = dict(silenced)
    for join in apart:
        key = (join.node, join.operand)
        gains[key] = factors.of(join.inside) / factors.of(join.outside) * silenced.get(key, 1.0)
    return gains
