# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch

from patcher.calibrate.scan.goal import Draw, Goal, eligible
from patcher.tasks import SINGLE_LABEL

LABELS = np.array([0, 0, 1, 1, 2, 2])
EVERYTHING = np.arange(6)


@pytest.mark.parametrize(
    ("goal", "expected"),
    [(Goal(1), [0, 1, 4, 5]), (Goal(1, 2), [4, 5]), (Goal(None), [0, 1, 2, 3, 4, 5]), (Goal(3), [0, 1, 2, 3, 4, 5])],
)
def test_a_goal_is_about_its_sources(goal, expected):
    assert eligible(goal, LABELS, EVERYTHING).tolist() == expected


def test_margins_are_positive_where_the_goal_is_met():
    logits = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0], [0.0, 2.0, 5.0]])
    labels = torch.tensor([1, 1, 1])
    assert SINGLE_LABEL.margins(logits, labels, torch.tensor([0, 0, 0])).tolist() == [2.0, -2.0, -5.0]
    assert SINGLE_LABEL.margins(logits, labels, torch.tensor([-1, -1, -1])).tolist() == [2.0, -1.0, 3.0]


def test_losses_are_negative_log_probabilities():
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    labels, targets = torch.tensor([0, 1, 2, 3, 0]), torch.tensor([1, 2, -1, 0, -1])
    chances = logits.softmax(1)
    wanted = torch.stack(
        [chances[i, t] if t >= 0 else 1 - chances[i, y] for i, (y, t) in enumerate(zip(labels, targets, strict=True))]
    )
    torch.testing.assert_close(SINGLE_LABEL.attack_losses(logits, labels, targets), -wanted.log())


def test_what_a_goal_draws_does_not_depend_on_the_others():
    alone, beside = Draw([EVERYTHING, LABELS], 3), Draw([EVERYTHING, LABELS], 3)
    beside.next(1, 50)
    assert [alone.next(0, 4).tolist() for _ in range(5)] == [beside.next(0, 4).tolist() for _ in range(5)]


def test_a_small_pool_is_seen_whole_before_it_repeats():
    drawn = Draw([np.array([4, 7, 9])], 0)
    assert sorted(drawn.next(0, 3).tolist()) == [4, 7, 9]
    assert len(drawn.next(0, 10)) == 10
