# SPDX-License-Identifier: Apache-2.0
"""Classes of labels against a plain search over the same pairs."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from patcher.graph.disjoint_sets import DisjointSets

COUNT = 9
PAIRS = st.lists(st.tuples(st.integers(0, COUNT - 1), st.integers(0, COUNT - 1)), max_size=12)


@given(pairs=PAIRS)
def test_the_lowest_label_that_can_be_reached_stands_for_each(pairs):
    classes = DisjointSets(COUNT)
    reached = np.eye(COUNT, dtype=bool)
    for first, second in pairs:
        classes.unite(first, second)
        reached[first, second] = reached[second, first] = True
    for _ in range(COUNT):
        reached = reached @ reached
    assert classes.roots(np.arange(COUNT)).tolist() == reached.argmax(axis=1).tolist()
    assert [classes.root(label) for label in range(COUNT)] == reached.argmax(axis=1).tolist()


def test_a_copy_goes_its_own_way():
    classes = DisjointSets(3)
    copy = classes.copy()
    copy.unite(1, 2)
    assert (classes.root(2), copy.root(2)) == (2, 1)
