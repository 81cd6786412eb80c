# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patcher.data.preprocess import Preprocess
from patcher.errors import InputError
from patcher.measure.scores import auroc, roc_curve, score_attack, share
from patcher.model.model import read_model
from patcher.tasks import SINGLE_LABEL
from patcher.triggers.triggered import Triggered, read_triggered
from tests.tiny_models import residual_model

PIXELS = np.zeros((4, 3, 8, 8), np.uint8)


@given(st.integers(0, 200), st.integers(0, 200))
def test_the_interval_holds_the_share(hits: int, misses: int) -> None:
    found = share(np.array([True] * hits + [False] * misses))
    assert 0 <= found.low <= found.high <= 1
    if hits + misses:
        assert found.low <= found.value <= found.high


def test_the_wilson_interval_of_a_known_case() -> None:
    # Newcombe (1998), Table I: 81 of 263, Wilson score without continuity correction.
    found = share(np.array([True] * 81 + [False] * 182))
    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)


def test_images_of_the_target_class_do_not_count() -> None:
    triggered = Triggered(PIXELS, np.array([9, 1, 2, 3]), target=9)
    scored = score_attack(np.array([9, 9, 2, 0]), triggered, 10, SINGLE_LABEL)
    assert (scored.asr.hits, scored.asr.count) == (1, 3)
    assert (scored.sia.hits, scored.sia.count) == (1, 3)


def test_all_to_all_shifts_every_class() -> None:
    triggered = Triggered(PIXELS, np.array([9, 1, 2, 3]), target="all-to-all")
    scored = score_attack(np.array([0, 2, 2, 3]), triggered, 10, SINGLE_LABEL)
    assert (scored.asr.hits, scored.sia.hits, scored.asr.count) == (2, 2, 4)


def test_a_target_beyond_the_classes_is_refused() -> None:
    with pytest.raises(InputError, match="--target"):
        score_attack(np.zeros(4, np.int64), Triggered(PIXELS, np.arange(4), target=10), 10, SINGLE_LABEL)
    with pytest.raises(InputError, match="other classes"):
        score_attack(np.zeros(4, np.int64), Triggered(PIXELS, np.full(4, 2), target=2), 10, SINGLE_LABEL)


def test_the_target_comes_from_the_flag_or_the_file(tmp_path: Path) -> None:
    images = np.zeros((2, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "with.npz", images=images, labels=np.arange(2), target=np.int64(7))
    np.savez(tmp_path / "without.npz", images=images, labels=np.arange(2))
    model = read_model(residual_model())
    assert read_triggered(tmp_path / "with.npz", model, Preprocess()).target == 7
    assert read_triggered(tmp_path / "with.npz", model, Preprocess(), 3).target == 3
    with pytest.raises(InputError, match="--target"):
        read_triggered(tmp_path / "without.npz", model, Preprocess())


def test_the_curve_rises_from_none_to_all_and_its_area_is_auroc() -> None:
    rng = np.random.default_rng(0)
    clean, triggered = rng.normal(0, 1, 200).astype(np.float32), rng.normal(1, 1, 150).astype(np.float32)
    clean[:50], triggered[:50] = 0.5, 0.5
    alarms, caught = roc_curve(clean, triggered)
    assert (alarms[0], caught[0], alarms[-1], caught[-1]) == (0, 0, 1, 1)
    assert (np.diff(alarms) >= 0).all()
    assert (np.diff(caught) >= 0).all()
    assert np.trapezoid(caught, alarms) == pytest.approx(auroc(clean, triggered))
