# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from patcher.calibrate.audit.split import compromised, distances, split_in_two


def brute_force(values):
    """The least variance within two groups, over every cut."""
    ordered = np.sort(values)
    within = [
        (ordered[:cut].var() * cut + ordered[cut:].var() * (len(ordered) - cut)) / len(ordered)
        for cut in range(1, len(ordered))
    ]
    return 1 - min(within) / ordered.var()


@given(arrays(np.float64, st.integers(2, 40), elements=st.floats(-50, 50, width=32)))
@settings(max_examples=60, deadline=None)
def test_the_split_is_the_best_of_all_cuts(values):
    if values.std() < 1e-3:
        return
    assert split_in_two(values[None]).separability[0] == pytest.approx(brute_force(values), abs=1e-6)


def test_one_group_explains_no_more_than_theory_says():
    rng = np.random.default_rng(0)
    rows = np.stack([rng.standard_normal(20000), rng.random(20000)])
    assert split_in_two(rows).separability == pytest.approx([2 / np.pi, 0.75], abs=0.02)


def test_two_groups_are_told_apart_and_measured_from_the_lower():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(1, 0.5, 300), rng.normal(9, 0.5, 40)])[None]
    split = split_in_two(values)
    assert compromised(split, separability=0.8, theta=0.95)[0]
    assert split.mean[0] == pytest.approx(1, abs=0.1)
    assert split.std[0] == pytest.approx(0.5, abs=0.05)
    found = distances(values, split)[0]
    assert (found[:300] < 5).all()
    assert (found[300:] > 10).all()


def test_an_upper_group_below_zero_is_not_on_the_active_piece():
    values = np.concatenate([np.full(50, -9.0), np.full(20, -1.0)])[None] + np.linspace(0, 0.1, 70)
    split = split_in_two(values)
    assert split.separability[0] > 0.99
    assert split.on_piece[0] == 0
    assert not compromised(split, separability=0.8, theta=0.95)[0]
    assert compromised(split_in_two(values + 5), separability=0.8, theta=0.95)[0]


def test_equal_values_are_no_groups():
    split = split_in_two(np.full((1, 10), 3.0))
    assert split.separability[0] == 0
    assert np.isfinite(distances(np.full((1, 10), 3.0), split)).all()
