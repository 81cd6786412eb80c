# SPDX-License-Identifier: Apache-2.0
"""Trigger inversion: the smallest change that sends images where a goal wants them, all goals at once.

    minimise   loss(x', goal) + w * size / reference     over the family's parameters, Adam, one mini-batch a step
    w          grows by a factor after each mini-batch whose success is high enough, else falls faster:
               Neural Cleanse's schedule (Wang et al., S&P 2019) without its five batches of waiting
    reference  the largest size there is; for a family with free steps, whose size is no matter at first, the size
               of the goal's own change after them
    return     the smallest change whose success on a fixed set of check images reached the threshold;
               the last iterate is never returned for being last, and mini-batch luck never decides

Goals lie along one leading axis: a mini-batch holds images of every goal, cut to what memory allows. A goal whose
smallest size stops falling leaves the batch, and in a family that is not expressive so does one that moves less
than half of its check images by step 20; the search ends with the last. The gradient of a goal depends on its own
images alone, so a goal's result does not depend on which others run beside it (up to rounding).

When it does not hold: a family where no gradient leads (`Family.candidates`) is enumerated instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patcher.calibrate.classifier import Classifier
from patcher.calibrate.scan.goal import Draw, Goal, eligible
from patcher.data.clean_set import CleanSet, Indices
from patcher.progress import Progress, no_progress
from patcher.triggers.family import family_of

EARLY_STEPS = 20  # without progress until then, a goal ends
_PROGRESS = 0.5  # of the check images
_GROWTH = 1.5  # this and the fall: Neural Cleanse's factors
_FALL = _GROWTH**1.5
# Chosen, not measured, where a line names no source.
_GAIN = 0.02  # smallest relative fall of the size that counts as one
_BETAS = (0.5, 0.9)  # of the authors' Adam: short memory, because w moves
_SIZE_SAMPLE = 8  # clean images for families whose size depends on them
_SIZE_NUMBERS = 4_000_000  # of all goals on the sample, at most


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
        family: Name of the family.
        values: One trigger's values, float32 arrays by name.
        size: Of the change, in the family's unit; the largest tried where the goal was not reached.
        success: On the check images (of *fit*), 0 to 1.
        reached: Whether `success` is at least the threshold; if not, this is the most successful change.
        steps: Steps run.
    """

    goal: Goal
    family: str
    values: dict[str, NDArray[np.float32]]
    size: float
    success: float
    reached: bool
    steps: int


def wanted_success(goals: Sequence[Goal], budget: Budget, classes: int) -> NDArray[np.float64]:
    """The share of images each goal must move, ``(G,)``."""
    return np.array([budget.success * (1 - 1 / classes if goal.target is None else 1.0) for goal in goals])


def invert(
    classifier: Classifier,
    clean_set: CleanSet,
    goals: Sequence[Goal],
    family: str,
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
    for step in range(1, budget.steps + 1):
        search.step(step)
        if (step % budget.check_every == 0 and step >= search.family.free_steps) or step == budget.steps:
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
        family: str,
        budget: Budget,
        seed: int,
        batch_size: int,
    ) -> None:
        self.classifier, self.clean_set, self.goals = classifier, clean_set, goals
        self.task = clean_set.task
        self.family, self.budget, self.batch_size = family_of(family), budget, batch_size
        self.images = max(1, round(budget.images * self.family.image_share))
        shape, device = clean_set.shape, classifier.device
        start = self.family.start(len(goals), shape, np.random.default_rng((seed, 3)))
        self.parameters = {name: torch.from_numpy(array).to(device).requires_grad_() for name, array in start.items()}
        self.optimizer = torch.optim.Adam(list(self.parameters.values()), lr=self.family.rate, betas=_BETAS)
        self.largest = self.family.largest(shape)
        self.reference = torch.full((len(goals),), self.largest, device=device)
        fits = _SIZE_NUMBERS // (len(goals) * math.prod(shape))
        sample = _spread(clean_set.fit, min(_SIZE_SAMPLE, max(1, fits)), seed)
        self.sample = classifier.tensor(clean_set.images(sample))
        pools = [eligible(goal, clean_set.labels, clean_set.fit, clean_set.task) for goal in goals]
        self.draw = Draw(pools, seed)
        self.checked = [_spread(pool, budget.check_images, seed) for pool in pools]
        self.labels = torch.from_numpy(clean_set.labels).to(device)
        self.targets = torch.tensor([-1 if goal.target is None else goal.target for goal in goals], device=device)
        self.wanted = wanted_success(goals, budget, classifier.model.num_classes)
        self.weights = torch.ones(len(goals), device=device)
        self.active = np.ones(len(goals), bool)
        self.stale = np.zeros(len(goals), np.int64)
        self.tried = np.zeros(len(goals))
        self.best: list[Inverted] = []

    def sizes(self) -> Tensor:
        """Size of each goal's change, ``(G,)``, differentiable."""
        sizes: Tensor = self.family.size(self.family.values(self.parameters), self.sample)
        return sizes

    def step(self, number: int) -> None:
        """One optimiser step of all active goals."""
        rows = np.flatnonzero(self.active)
        chosen = [self.draw.next(int(row), self.images) for row in rows]
        self.optimizer.zero_grad(set_to_none=True)
        hits = torch.zeros(len(self.goals), device=self.classifier.device)

        def backward(logits: Tensor, labels: Tensor, owners: Tensor) -> None:
            targets = self.targets[owners]
            (self.task.attack_losses(logits, labels, targets).sum() / self.images).backward()
            hits.index_add_(0, owners, (self.task.margins(logits.detach(), labels, targets) > 0).float())

        self._stream(np.repeat(rows, self.images), np.concatenate(chosen), backward)
        if number > self.family.free_steps:
            places = torch.from_numpy(rows).to(self.weights.device)
            (self.weights * self.sizes() / self.reference)[places].sum().backward()
        self.optimizer.step()
        if number == self.family.free_steps:
            self.reference = self.sizes().detach().clamp_min(1e-9)
        if number > self.family.free_steps:
            enough = hits >= torch.from_numpy(self.wanted * self.images).to(hits)
            smallest = self.reference / self.largest
            self.weights = torch.maximum(self.weights * torch.where(enough, _GROWTH, 1 / _FALL), smallest)

    @torch.no_grad()
    def check(self, step: int) -> None:
        """Measure all active goals on their check images; keep what is best, drop what gains no more."""
        rows = np.flatnonzero(self.active)
        hits = torch.zeros(len(self.goals), device=self.classifier.device)

        def count(logits: Tensor, labels: Tensor, owners: Tensor) -> None:
            hits.index_add_(0, owners, (self.task.margins(logits, labels, self.targets[owners]) > 0).float())

        owners = np.concatenate([np.full(len(self.checked[row]), row) for row in rows])
        self._stream(owners, np.concatenate([self.checked[row] for row in rows]), count)
        sizes = self.sizes().tolist()
        early = step >= EARLY_STEPS and not self.family.expressive
        for row in rows:
            success = hits[row].item() / len(self.checked[row])
            self._keep(int(row), step, sizes[row], success)
            if self.stale[row] >= self.budget.patience or (early and self.best[row].success < _PROGRESS):
                self.active[row] = False

    def _keep(self, row: int, step: int, size: float, success: float) -> None:
        reached = success >= self.wanted[row]
        self.tried[row] = max(self.tried[row], size)
        before = self.best[row] if row < len(self.best) else None
        gained = False
        if before is None or (reached, -size if reached else success) > (
            before.reached,
            -before.size if before.reached else before.success,
        ):
            gained = before is None or not (before.reached and size > (1 - _GAIN) * before.size)
            values = self.family.values(self.parameters)
            kept = {name: array[row].detach().cpu().numpy().copy() for name, array in values.items()}
            found = Inverted(self.goals[row], self.family.name, kept, size, success, reached, step)
            self.best[row : row + 1] = [found]
        if not self.best[row].reached:
            self.best[row] = replace(self.best[row], size=float(self.tried[row]), steps=step)
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
            values = {name: array[rows] for name, array in self.family.values(self.parameters).items()}
            logits = self.classifier.logits(self.family.apply(pixels, values))
            use(logits, self.labels[torch.from_numpy(chosen).to(self.classifier.device)], rows)


def _spread(pool: Indices, count: int, seed: int) -> Indices:
    """At most `count` of `pool`, at random."""
    return np.random.default_rng((seed, 1)).permutation(pool)[:count]
