# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patcher.calibrate.scan.outliers import outliers

CLEAN = [50.0, 55, 60, 62, 63, 75, 77, 80, 83, 88]


def test_one_small_norm_among_many_stands_out():
    found = outliers([*CLEAN[:9], 3.0])
    assert found[9].score > 5
    assert found[9].ratio > 15
    assert found[9].gap == pytest.approx(50 / 3)
    assert max(item.score for item in found[:9]) < 2


def test_equal_norms_have_no_outlier():
    assert all(item.score == 0 and item.ratio == 1 and item.gap == 1 for item in outliers([4.0] * 10))


def test_the_floor_keeps_a_tight_cluster_from_making_outliers():
    assert max(item.score for item in outliers([4.0] * 9 + [3.2])) < 1


def test_two_small_norms_share_the_gap_above_them():
    found = outliers([2.0, 2.5, *CLEAN])
    assert found[0].gap == found[1].gap == pytest.approx(20)


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=30), st.floats(0.01, 100))
def test_the_unit_of_the_norm_does_not_matter(norms, unit):
    for before, after in zip(outliers(norms), outliers(np.array(norms) * unit), strict=True):
        assert after.score == pytest.approx(before.score, abs=1e-6)
        assert after.gap == pytest.approx(before.gap, rel=1e-6)


@pytest.mark.parametrize("norm", [0.0, -1.0, float("nan"), float("inf")])
def test_what_is_no_norm_is_refused(norm):
    with pytest.raises(ValueError, match="positive finite norms"):
        outliers([1.0, norm])


def test_no_norms_have_no_standing():
    assert outliers([]) == []
