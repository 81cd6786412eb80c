# SPDX-License-Identifier: Apache-2.0
"""Trigger inversion: the smallest change that sends images where a goal wants them, all goals at once.

    minimise   loss(x', goal) + w * norm / reference     over the change, Adam, one mini-batch a step
    w          grows by a factor after each mini-batch whose success is high enough, else falls faster:
               Neural Cleanse's schedule (Wang et al., S&P 2019) without its five batches of waiting
    return     the smallest change whose success on a fixed set of check images reached the threshold;
               the last iterate is never returned for being last, and mini-batch luck never decides

Goals lie along one leading axis: a mini-batch holds images of every goal, cut to what memory allows. A
goal whose smallest norm stops falling leaves the batch. The gradient of a goal depends on its own
images alone, so a goal's result does not depend on which others run beside it (up to rounding).

When it does not hold: a trigger that depends on the picture (warping, sample-specific) has no small
universal mask or difference; it shows as a moderately small difference at best.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patcher.calibrate.classifier import Classifier
from patcher.calibrate.scan.family import FAMILIES, Parameters, largest_norm
from patcher.calibrate.scan.goal import Draw, Goal, eligible, losses, margins
from patcher.data.clean_set import CleanSet, Indices
from patcher.progress import Progress, no_progress
from patcher.triggers.trigger import Family

_GROWTH = 1.5  # this and the fall: Neural Cleanse's factors
_FALL = _GROWTH**1.5
# Chosen, not measured, where a line names no source.
_SMALLEST_WEIGHT = 1.0
_GAIN = 0.02  # smallest relative fall of the norm that counts as one
_BETAS = (0.5, 0.9)  # of the authors' Adam: short memory, because w moves
_LEARNING_RATES: dict[Family, float] = {"patch": 0.25, "additive": 0.01}


@dataclass(frozen=True)
class Budget:
    """What one inversion may cost.

    Attributes:
        steps: Optimiser steps at most.
        images: Images a step and goal.
        check_images: Images a goal on which success is checked.
        check_every: Steps between checks.
        patience: Checks without gain after which a goal is finished.
        success: Share of check images that must go where the goal wants, 0 to 1. A goal without a target
            gets the share (C - 1) / C of it: the attack's own class, if it has one, stays where it is.
    """

    steps: int = 80
    images: int = 16
    check_images: int = 64
    check_every: int = 10
    patience: int = 3
    success: float = 0.95


@dataclass(frozen=True)
class Inverted:
    """The best change of one goal.

    Attributes:
        goal: Where images were to be sent.
        family: How it is put into pixels.
        mask: float32 ``(1, H, W)``; ones for ``additive``.
        pattern: float32 ``(C, H, W)``.
        norm: Sum of the mask, or L2 of the difference, in pixels.
        success: On the check images (of *fit*), 0 to 1.
        reached: Whether `success` is at least the threshold; if not, this is the most successful change.
        steps: Steps run.
    """

    goal: Goal
    family: Family
    mask: NDArray[np.float32]
    pattern: NDArray[np.float32]
    norm: float
    success: float
    reached: bool
    steps: int


def invert(
    classifier: Classifier,
    clean_set: CleanSet,
    goals: Sequence[Goal],
    family: Family,
    budget: Budget,
    *,
    seed: int,
    batch_size: int,
    progress: Progress = no_progress,
    description: str = "invert",
) -> list[Inverted]:
    """Find the smallest change of each goal.

    Args:
        classifier: The model; its weights stay frozen.
        clean_set: Clean images; only *fit* is used.
        goals: Each with at least one eligible image among *fit*.
        family: How changes are put into pixels.
        budget: Steps, images and the success wanted.
        seed: Of the start and of the order of images.
        batch_size: Images in memory at a time.
        progress: Told of each step.
        description: What `progress` shows.

    Returns:
        One result a goal, in order.
    """
    if not goals:
        return []
    search = _Search(classifier, clean_set, goals, family, budget, seed, batch_size)
    search.check(0)
    for step in range(1, budget.steps + 1):
        search.step()
        if step % budget.check_every == 0 or step == budget.steps:
            search.check(step)
        progress(description, step, budget.steps)
        if not search.active.any():
            progress(description, budget.steps, budget.steps)
            break
    return search.best


class _Search:
    """State of `invert`: the changes, their weights and the best of each goal."""

    def __init__(
        self,
        classifier: Classifier,
        clean_set: CleanSet,
        goals: Sequence[Goal],
        family: Family,
        budget: Budget,
        seed: int,
        batch_size: int,
    ) -> None:
        self.classifier, self.clean_set, self.goals = classifier, clean_set, goals
        self.family, self.budget, self.batch_size = family, budget, batch_size
        shape = (clean_set.pixels.shape[1], clean_set.pixels.shape[2], clean_set.pixels.shape[3])
        device = classifier.device
        generator = torch.Generator(device=device).manual_seed(seed)
        self.changes: Parameters = FAMILIES[family](len(goals), shape, generator)
        self.reference = largest_norm(family, shape)
        self.optimizer = torch.optim.Adam(self.changes.tensors, lr=_LEARNING_RATES[family], betas=_BETAS)
        pools = [eligible(goal, clean_set.labels, clean_set.fit) for goal in goals]
        self.draw = Draw(pools, seed)
        self.checked = [_spread(pool, budget.check_images, seed) for pool in pools]
        self.labels = torch.from_numpy(clean_set.labels).to(device)
        self.targets = torch.tensor([-1 if goal.target is None else goal.target for goal in goals], device=device)
        everywhere = budget.success * (1 - 1 / classifier.model.num_classes)
        self.wanted = np.array([everywhere if goal.target is None else budget.success for goal in goals])
        self.weights = torch.ones(len(goals), device=device)
        self.active = np.ones(len(goals), bool)
        self.stale = np.zeros(len(goals), np.int64)
        self.best: list[Inverted] = []

    def step(self) -> None:
        """One optimiser step of all active goals."""
        rows = np.flatnonzero(self.active)
        chosen = [self.draw.next(int(row), self.budget.images) for row in rows]
        self.optimizer.zero_grad(set_to_none=True)
        hits = torch.zeros(len(self.goals), device=self.classifier.device)

        def backward(logits: Tensor, labels: Tensor, owners: Tensor) -> None:
            targets = self.targets[owners]
            (losses(logits, labels, targets).sum() / self.budget.images).backward()
            hits.index_add_(0, owners, (margins(logits.detach(), labels, targets) > 0).float())

        self._stream(np.repeat(rows, self.budget.images), np.concatenate(chosen), backward)
        norms = self.changes.norms()[torch.from_numpy(rows)]
        (self.weights[torch.from_numpy(rows)] * norms / self.reference).sum().backward()
        self.optimizer.step()
        enough = hits >= torch.from_numpy(self.wanted * self.budget.images).to(hits)
        self.weights = (self.weights * torch.where(enough, _GROWTH, 1 / _FALL)).clamp_min(_SMALLEST_WEIGHT)

    @torch.no_grad()
    def check(self, step: int) -> None:
        """Measure all active goals on their check images; keep what is best, drop what gains no more."""
        rows = np.flatnonzero(self.active)
        hits = torch.zeros(len(self.goals), device=self.classifier.device)

        def count(logits: Tensor, labels: Tensor, owners: Tensor) -> None:
            hits.index_add_(0, owners, (margins(logits, labels, self.targets[owners]) > 0).float())

        owners = np.concatenate([np.full(len(self.checked[row]), row) for row in rows])
        self._stream(owners, np.concatenate([self.checked[row] for row in rows]), count)
        norms = self.changes.norms().tolist()
        for row in rows:
            success = hits[row].item() / len(self.checked[row])
            self._keep(int(row), step, norms[row], success)
            if self.stale[row] >= self.budget.patience:
                self.active[row] = False

    def _keep(self, row: int, step: int, norm: float, success: float) -> None:
        reached = success >= self.wanted[row]
        before = self.best[row] if row < len(self.best) else None
        gained = False
        if before is None or (reached, -norm if reached else success) > (
            before.reached,
            -before.norm if before.reached else before.success,
        ):
            gained = before is None or not (before.reached and norm > (1 - _GAIN) * before.norm)
            mask, pattern = self.changes.arrays(row)
            found = Inverted(self.goals[row], self.family, mask, pattern, norm, success, reached, step)
            self.best[row : row + 1] = [found]
        # A change that fails says nothing yet: it was made too small and will grow again.
        self.stale[row] = 0 if gained else self.stale[row] + int(reached)

    def _stream(
        self, owners: NDArray[np.int64], images: NDArray[np.int64], use: Callable[[Tensor, Tensor, Tensor], None]
    ) -> None:
        """Run changed images in pieces that fit memory; `use` gets logits, labels and goal of each piece."""
        for start in range(0, len(owners), self.batch_size):
            rows = torch.from_numpy(owners[start : start + self.batch_size]).to(self.classifier.device)
            chosen = images[start : start + self.batch_size]
            pixels = self.classifier.tensor(self.clean_set.images(chosen))
            logits = self.classifier.logits(self.changes.apply(pixels, rows))
            use(logits, self.labels[torch.from_numpy(chosen).to(self.classifier.device)], rows)


def _spread(pool: Indices, count: int, seed: int) -> Indices:
    """At most `count` of `pool`, at random."""
    return np.random.default_rng((seed, 1)).permutation(pool)[:count]
