# SPDX-License-Identifier: Apache-2.0
"""The fit loop on a problem of one number, and the images that decide."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from patcher.calibrate.best_state import holds
from patcher.calibrate.classifier import Classifier
from patcher.calibrate.minibatches import Minibatches
from patcher.calibrate.run import Run
from patcher.calibrate.training import Problem, Steps, fit
from patcher.data.clean_set import CleanSet
from patcher.data.preprocess import Preprocess
from patcher.model.model import read_model
from tests.tiny_models import residual_model

MODEL = read_model(residual_model())


class Mean(Problem[float]):
    """Draws a number to the mean pixel; stops after `last` steps."""

    def __init__(self, last: int) -> None:
        self.value = torch.zeros((), requires_grad=True)
        self.optimizer = torch.optim.SGD([self.value], lr=0.5)
        self.last, self.checked, self.pieces = last, [], []

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        self.pieces.append(len(images))
        return (images.mean() - self.value).square()

    def check(self, step: int) -> bool:
        self.checked.append(step)
        return step < self.last

    def keep(self) -> float:
        return float(self.value.detach())


def run(batch_size: int, shown: list[tuple[str, int, int]] | None = None) -> Run:
    classifier = Classifier(MODEL, Preprocess(), device=torch.device("cpu"))
    return Run(classifier, 0, batch_size, lambda *item: (shown if shown is not None else []).append(item))


def clean_set() -> CleanSet:
    pixels = np.random.default_rng(1).random((20, 3, 8, 8), np.float32)
    return CleanSet(pixels, np.arange(20) % 4, ("a", "b", "c", "d"), np.arange(16), np.arange(16, 20), "")


def fitted(problem: Mean, batch_size: int, **changes: int) -> tuple[int, float]:
    steps = replace(Steps(5, 6, 2, "toy"), **changes)
    return fit(run(batch_size), problem, clean_set(), steps, rng=np.random.default_rng(0))


def test_checks_come_first_every_few_steps_and_last():
    problem = Mean(last=99)
    assert fitted(problem, 64)[0] == 5
    assert problem.checked == [0, 2, 4, 5]


@pytest.mark.parametrize(("last", "done"), [(0, 0), (2, 2), (3, 4)])
def test_a_check_ends_the_fit(last: int, done: int):
    problem = Mean(last)
    steps, kept = fitted(problem, 64)
    assert steps == done
    assert kept == problem.keep()


def test_a_cut_mini_batch_gives_the_same_gradient():
    whole, cut = Mean(99), Mean(99)
    # The gradient, -2 (mean - value), is linear in the mean: pieces weighted by their images add up to the whole.
    assert fitted(whole, 64)[1] == pytest.approx(fitted(cut, 4)[1], abs=1e-6)
    assert set(whole.pieces) == {6}
    assert set(cut.pieces) == {4, 2}


def test_progress_names_the_fit_and_its_steps():
    shown: list[tuple[str, int, int]] = []
    fit(run(8, shown), Mean(99), clean_set(), Steps(2, 4, 1, "toy"), rng=np.random.default_rng(0))
    assert shown == [("toy", 1, 2), ("toy", 2, 2)]


def test_every_epoch_holds_each_index_once():
    batches = Minibatches(np.array([3, 5, 8]), np.random.default_rng(0))
    taken = np.concatenate([batches.take(2) for _ in range(6)]).reshape(4, 3)
    assert np.sort(taken).tolist() == [[3, 5, 8]] * 4
    assert len({tuple(epoch) for epoch in taken.tolist()}) > 1


def test_what_is_held_out_decides_else_what_is_fitted_on():
    both = clean_set()
    alone = replace(both, held_out=both.held_out[:0])
    assert (both.deciding.tolist(), both.deciding_split) == ([16, 17, 18, 19], "held-out")
    assert (alone.deciding.tolist(), alone.deciding_split) == (list(range(16)), "fit")


def test_a_loss_of_exactly_epsilon_holds_the_condition():
    assert holds(0.9 - 0.88, 0.02)
    assert not holds(0.021, 0.02)
