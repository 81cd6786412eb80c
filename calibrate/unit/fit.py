# SPDX-License-Identifier: Apache-2.0
"""What UNIT minimises, measures and keeps; see `patcher.calibrate.unit.method`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from patcher.calibrate.augmentation import Augmentation, apply_all, tolerated
from patcher.calibrate.best_state import Search, State, holds, least_lost, restore
from patcher.calibrate.precision import for_steps
from patcher.calibrate.run import Run
from patcher.calibrate.training import Problem
from patcher.calibrate.unit.bounds import Bounds, BoundSet
from patcher.calibrate.unit.options import Options
from patcher.data.clean_set import CleanSet, Indices
from patcher.errors import CalibrationError

# Far beyond any clean value; who asks for a start far below that of the paper is not overruled.
_MOST_DOUBLINGS = 12
# The start is tried on so many images that epsilon of them are four; chosen, not measured.
_LOST_IMAGES, _SMALLEST_EPSILON = 4, 0.005


class BoundFit(Problem[State]):
    """The bounds of all sites, made tight.

    Args:
        run: Of the calibration.
        bounds: What is fitted.
        clean_set: Clean images; the deciding ones are measured.
        options: Options of UNIT.
        chance: Of the augmentation.

    Attributes:
        before: Whether each deciding image gets its label without bounds: bool ``(n,)``.
        search: The measurements.
        changes: Augmentations in use.
    """

    def __init__(
        self, run: Run, bounds: BoundSet, clean_set: CleanSet, options: Options, chance: np.random.Generator
    ) -> None:
        self._run, self._bounds, self._clean_set, self._options = run, bounds, clean_set, options
        self._chance = chance
        self._tried = self._enough_images()
        self._tried_before = self._hits(self._tried, None)
        self.before = self._tried_before[: len(clean_set.deciding)]
        self.optimizer = torch.optim.Adam(bounds.parameters, lr=options.learning_rate)
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, max(1, options.steps))
        self.search = Search(
            self.before,
            epsilon=options.epsilon,
            alpha=options.alpha,
            schedule=options.alpha_schedule,
            check_every=options.check_every,
        )
        self.changes: Sequence[Augmentation] = ()
        if options.augment and options.loss == "distillation":
            self.changes = tolerated(run.classifier, clean_set, epsilon=options.epsilon, rng=chance)
        self._stepping = for_steps(run.classifier, clean_set, options.precision)

    def batch(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mirrored and shifted images with their labels."""
        return apply_all(self.changes, images, self._chance), labels

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        """Distance of the bounded model's answers from the unpatched model's, or from the labels ``(n,)``."""
        classifier, rewrite, task = self._stepping, self._bounds.rewrite, self._stepping.task
        if self._options.loss == "cross-entropy":
            return task.loss(classifier.logits(images, rewrite=rewrite), targets)
        with torch.no_grad():
            wanted = classifier.logits(images)
        found = classifier.logits(images, rewrite=rewrite)
        self.search.seen(task.hits(wanted, targets), task.hits(found, targets))
        return task.divergence(found, wanted)

    def regularizer(self) -> Tensor:
        """Alpha times the tightness."""
        return self.search.alpha * self._bounds.tightness(self._options.regularizer)

    def after_step(self) -> None:
        """Let the learning rate fall."""
        self._schedule.step()

    @torch.no_grad()
    def widen_start(self, kind: Bounds, among: Bounds | BoundSet) -> None:
        """Double z of one kind while the start, with all bounds `among` which it stands, breaks the accuracy condition.

        Heavy-tailed channels reach 20 and more standard deviations on clean images, where 4 cut them off. Where the
        deciding images are too few to tell a loss of epsilon, the condition must hold with some of the others, too.
        """
        for _ in range(_MOST_DOUBLINGS):
            if self._start_holds(among):
                break
            kind.widen()

    def _start_holds(self, bounds: Bounds | BoundSet) -> bool:
        """Whether the condition holds on the images that the start is tried on, and on the deciding ones alone.

        The first batches are enough where they show that it cannot.
        """
        before, counts = self._tried_before, (len(self.before), len(self._tried))
        return all(
            holds(least_lost(before[:count], after[:count]), self._options.epsilon)
            for after in self._hits_so_far(self._tried, bounds)
            for count in counts
        )

    def _enough_images(self) -> Indices:
        """The deciding images, and behind them as many others as it takes to tell a loss of epsilon."""
        deciding = self._clean_set.deciding
        missing = math.ceil(_LOST_IMAGES / max(self._options.epsilon, _SMALLEST_EPSILON)) - len(deciding)
        others = np.setdiff1d(self._clean_set.fit, deciding)
        if missing <= 0 or not len(others):
            return deciding
        return np.concatenate([deciding, others[:: max(1, len(others) // missing)][:missing]])

    def _hits(self, images: Indices, bounds: Bounds | BoundSet | None) -> Tensor:
        """Whether each image gets its label, under bounds or without: bool ``(n,)``."""
        *_, hits = self._hits_so_far(images, bounds)
        return hits

    def _hits_so_far(self, images: Indices, bounds: Bounds | BoundSet | None) -> Iterator[Tensor]:
        """The same of the first images ``(m,)``, of more, of all ``(n,)``."""
        batches = self._run.classifier.hits_by_batch(
            self._clean_set,
            images,
            batch_size=self._run.batch_size,
            rewrite=bounds.rewrite if bounds is not None else None,
        )
        return accumulate(batches, lambda done, more: torch.cat([done, more]))

    @torch.no_grad()
    def check(self, step: int) -> bool:
        """Measure the present bounds on the deciding images; stop where nothing has been gained for long."""
        bounds, hits = self._bounds, self._hits(self._clean_set.deciding, self._bounds)
        tightness = float(bounds.tightness(self._options.regularizer)) / bounds.count
        state = self.search.measured(step, hits, tightness, bounds.parameters)
        if self.search.best and state.rank[:2] < self.search.best.rank[:2]:
            # Steps among bounds that cost too much buy nothing: back to the best, with a smaller alpha.
            restore(self.search.best, bounds.parameters, self.optimizer)
        return not self.search.exhausted(step)

    def keep(self) -> State:
        """Go back to the tightest bounds that hold the accuracy condition."""
        best = self.search.best
        if best is None:
            raise CalibrationError("no bounds were measured")
        restore(best, self._bounds.parameters, self.optimizer)
        return best
