# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patcher.gate.accuracy import paired_interval
from patcher.gate.probes import built_in_probes
from patcher.gate.triggers import _largest_flow
from patcher.tasks import SINGLE_LABEL

SHAPES = st.tuples(st.sampled_from([1, 3, 4]), st.integers(4, 40), st.integers(4, 40))


@settings(max_examples=25, deadline=None)
@given(SHAPES, st.integers(0, 3))
def test_probes_keep_shape_range_and_their_input(shape: tuple[int, int, int], seed: int) -> None:
    images = np.random.default_rng(seed).random((2, *shape)).astype(np.float32)
    before = images.copy()
    for probe in built_in_probes(shape, patches=2, seed=seed):
        found = probe.apply(images)
        assert found.shape == images.shape
        assert found.dtype == np.float32
        assert found.min() >= 0
        assert found.max() <= 1 + 1e-6
        assert not np.array_equal(found, images)
    assert np.array_equal(images, before)


@pytest.mark.parametrize("side", [4, 6, 8, 12, 24, 32])
def test_the_sinusoid_is_seen_at_every_size(side: int) -> None:
    images = np.full((1, 1, side, side), 0.5, np.float32)
    for probe in built_in_probes((1, side, side), patches=0, seed=0):
        if probe.name.startswith("sinusoid"):
            assert np.abs(probe.apply(images) - images).max() > 0.03


def test_patches_are_where_their_names_say() -> None:
    images = np.full((1, 3, 32, 32), 0.5, np.float32)
    probes = {probe.name: probe for probe in built_in_probes((3, 32, 32), patches=1, seed=0)}
    changed = probes["patch 3 px, white, bottom-right"].apply(images) != images
    assert changed[0, 0, 29:, 29:].all()
    assert changed.sum() == 27


def test_probes_are_the_same_for_the_same_seed() -> None:
    images = np.random.default_rng(0).random((1, 3, 16, 16)).astype(np.float32)
    first, second = (built_in_probes((3, 16, 16), patches=3, seed=5) for _ in range(2))
    assert [probe.name for probe in first] == [probe.name for probe in second]
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one.apply(images), other.apply(images))


def test_the_flow_leaves_out_the_class_itself_and_clean_confusion() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1])
    clean = np.array([0, 0, 1, 1, 1, 1])
    answers = np.array([1, 0, 1, 1, 1, 1])
    found = _largest_flow(answers, labels, clean, SINGLE_LABEL)
    # Of class 0 one goes to 1; the third had been taken for 1 before.
    assert (found.target, found.rate.hits, found.rate.count) == (1, 1, 2)


@pytest.mark.parametrize(("lost", "won", "count"), [(0, 0, 79), (10, 2, 500), (5, 0, 50), (50, 0, 50)])
def test_the_paired_interval_contains_the_loss(lost: int, won: int, count: int) -> None:
    before, after = np.ones(count, bool), np.ones(count, bool)
    after[:lost] = False
    before[count - won :] = False
    low, high = paired_interval(before, after)
    assert low <= (lost - won) / count <= high or lost == count
    assert -1 <= low < high <= 1
