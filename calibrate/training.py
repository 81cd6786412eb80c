# SPDX-License-Identifier: Apache-2.0
"""The fit loop of every method: mini-batches in a seeded order, one optimiser step each, checks in between.

The loop knows nothing of what is fitted. A method gives a `Problem`: the loss of a mini-batch, a check that
measures the present state (on held-out images) and says whether to go on, and the state that is kept in the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from patcher.calibrate.minibatches import Minibatches
from patcher.calibrate.run import Run
from patcher.data.clean_set import CleanSet

Kept = TypeVar("Kept", covariant=True)


class Problem(Protocol[Kept]):
    """What a method fits.

    Attributes:
        optimizer: Holds the parameters.
    """

    optimizer: torch.optim.Optimizer

    def batch(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Augment or mix a whole mini-batch, before it is cut to what memory allows.

        Args:
            images: Clean pixels ``(n, C, H, W)``.
            labels: int64 ``(n,)``.

        Returns:
            Pixels ``(m, C, H, W)`` and the targets ``(m, ...)`` that `loss` compares with.
        """
        return images, labels

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        """Mean loss over images ``(n, C, H, W)`` with targets ``(n, ...)``: a scalar."""
        ...

    def regularizer(self) -> Tensor | None:
        """A scalar of the parameters alone, added to the loss once a step."""
        return None

    def after_step(self) -> None:
        """Keep parameters in their range, move the learning rate."""

    def check(self, step: int) -> bool:
        """Measure the state after `step` steps; whether to go on."""
        ...

    def keep(self) -> Kept:
        """Go back to the state to keep, and give it."""
        ...


@dataclass(frozen=True)
class Steps:
    """How long a fit goes on.

    Attributes:
        count: Optimiser steps at most.
        minibatch: Images a step.
        check_every: Steps between checks.
        description: What is shown as progress.
    """

    count: int
    minibatch: int
    check_every: int
    description: str


def fit(
    run: Run, problem: Problem[Kept], clean_set: CleanSet, steps: Steps, *, rng: np.random.Generator
) -> tuple[int, Kept]:
    """Minimise a problem's loss over the *fit* images.

    Checked before the first and after each ``check_every``-th and the last step. A mini-batch larger than the run's
    batch size is cut, and its gradients are added up.

    Args:
        run: Of the calibration.
        problem: What is fitted.
        clean_set: Source of the mini-batches and their labels.
        steps: How long.
        rng: Order of the images.

    Returns:
        Steps done, and what the problem keeps.
    """
    labels = torch.from_numpy(clean_set.labels).to(run.classifier.device)
    batches, size = Minibatches(clean_set.fit, rng), min(steps.minibatch, len(clean_set.fit))
    last = steps.count if problem.check(0) else 0
    for step in range(1, last + 1):
        chosen = batches.take(size)
        problem.optimizer.zero_grad(set_to_none=True)
        pixels = run.classifier.tensor(clean_set.images(chosen))
        # Before the cut, so that chance does not depend on the batch size.
        images, targets = problem.batch(pixels, labels[torch.from_numpy(chosen).to(labels.device)])
        for piece, wanted in zip(images.split(run.batch_size), targets.split(run.batch_size), strict=True):
            (problem.loss(piece, wanted) * (len(piece) / len(images))).backward()
        if (penalty := problem.regularizer()) is not None:
            penalty.backward()
        problem.optimizer.step()
        problem.after_step()
        run.progress(steps.description, step, steps.count)
        if (step % steps.check_every == 0 or step == steps.count) and not problem.check(step):
            last = step
            break
    return last, problem.keep()
