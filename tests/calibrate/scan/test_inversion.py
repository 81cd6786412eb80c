# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from patcher.calibrate.scan.goal import Goal
from patcher.calibrate.scan.inversion import Budget, invert
from patcher.calibrate.scan.ranking import maximum_margins, noise
from patcher.triggers.trigger import Trigger
from tests.calibrate.scan.block_models import BRIGHT, DARK

BUDGET = Budget(steps=40)


@pytest.fixture(scope="module")
def backdoored(make_classifier):
    return make_classifier(target=7)


@pytest.mark.parametrize("family", ["patch", "additive"])
def test_the_returned_change_is_small_and_works(backdoored, make_clean_set, family):
    clean_set = make_clean_set()
    [natural, planted] = invert(backdoored, clean_set, [Goal(2), Goal(7)], family, BUDGET, seed=0, batch_size=512)
    assert planted.reached
    assert planted.size < natural.size / 2
    trigger = Trigger(family, 7, (), planted.values, clean_set.shape)
    images = clean_set.images(clean_set.fit[clean_set.labels[clean_set.fit] != 7])
    sent = backdoored.logits(backdoored.tensor(trigger.apply(images))).argmax(1).numpy() == 7
    assert sent.mean() >= 0.9


def test_the_mask_lies_on_a_planted_pixel(backdoored, make_clean_set):
    [found] = invert(backdoored, make_clean_set(), [Goal(7)], "patch", BUDGET, seed=0, batch_size=512)
    row, column = np.unravel_index(found.values["mask"][0].argmax(), found.values["mask"].shape[1:])
    assert (int(row), int(column)) in (BRIGHT, DARK)


def test_neither_the_batch_size_nor_other_goals_change_a_result(backdoored, make_clean_set):
    clean_set, short = make_clean_set(), Budget(steps=10)
    goals = [Goal(0), Goal(7), Goal(None), Goal(3, 1)]
    whole = invert(backdoored, clean_set, goals, "additive", short, seed=1, batch_size=512)
    pieces = invert(backdoored, clean_set, goals, "additive", short, seed=1, batch_size=7)
    for one, other in zip(whole, pieces, strict=True):
        assert one.size == pytest.approx(other.size, rel=1e-3)
        np.testing.assert_allclose(one.values["difference"], other.values["difference"], atol=1e-3)


def test_a_goal_out_of_reach_is_said_to_be(make_classifier, make_clean_set):
    # One step cannot send anything anywhere by a difference of a thousandth.
    [found] = invert(
        make_classifier(), make_clean_set(), [Goal(4)], "additive", Budget(steps=1), seed=0, batch_size=512
    )
    assert not found.reached
    assert found.success < 0.5


def test_no_goals_no_results(backdoored, make_clean_set):
    assert invert(backdoored, make_clean_set(), [], "patch", BUDGET, seed=0, batch_size=8) == []


def test_the_maximum_margin_needs_no_data_and_points_at_the_target(backdoored):
    starts = noise(backdoored, 3, (12, 12), seed=0)
    margins = maximum_margins(backdoored, starts, steps=20, batch_size=16)
    assert margins.shape == (10,)
    assert margins.argmax() == 7
    np.testing.assert_allclose(margins, maximum_margins(backdoored, starts, steps=20, batch_size=3), rtol=1e-4)
