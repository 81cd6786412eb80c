# SPDX-License-Identifier: Apache-2.0
"""What NFT minimises, measures and keeps; see `patcher.calibrate.nft.method`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from patcher.calibrate.augmentation import Augmentation, apply_all, tolerated
from patcher.calibrate.best_state import Search, State
from patcher.calibrate.nft.caught import Caught
from patcher.calibrate.nft.masks import Masks
from patcher.calibrate.nft.mixup import mixup
from patcher.calibrate.nft.options import Options
from patcher.calibrate.precision import for_steps
from patcher.calibrate.run import Run
from patcher.calibrate.training import Problem
from patcher.calibrate.triggered import stamp, triggered_loss
from patcher.data.clean_set import CleanSet
from patcher.errors import CalibrationError
from patcher.triggers.trigger import Trigger


class MaskFit(Problem[State]):
    """The masks of all layers, made small.

    Args:
        run: Of the calibration.
        masks: What is fitted.
        clean_set: Clean images; the deciding ones are measured.
        options: Options of NFT.
        triggers: Estimated triggers, if any.
        caught: Images that a service flagged, if any.
        chance: Of augmentation, MixUp and the choice among triggers and flagged images.
        steered: Whether fewer stamped and flagged images are shown while the accuracy condition does not hold.

    Attributes:
        before: Whether each deciding image gets its label without masks: bool ``(n,)``.
        search: The measurements.
        changes: Augmentations in use.
        rate: Learning rate at the start.
    """

    def __init__(
        self,
        run: Run,
        masks: Masks,
        clean_set: CleanSet,
        options: Options,
        triggers: Sequence[Trigger],
        caught: Caught | None,
        chance: np.random.Generator,
        *,
        steered: bool = False,
    ) -> None:
        self._run, self.masks, self._clean_set, self._options = run, masks, clean_set, options
        self.rate = options.learning_rate
        self._triggers, self.caught, self._chance = triggers, caught, chance
        classifier = run.classifier
        self._stepping = for_steps(classifier, clean_set, options.precision)
        if options.mask == "centred":
            masks.centre(clean_set, clean_set.fit, run.batch_size)
        if options.bn_stats == "reestimate":
            masks.keep_statistics(clean_set, clean_set.fit, run.batch_size)
        self.before = classifier.hits(clean_set, clean_set.deciding, batch_size=run.batch_size)
        self.changes: Sequence[Augmentation] = (
            tolerated(classifier, clean_set, epsilon=options.epsilon, rng=chance) if options.augment else ()
        )
        self.optimizer = torch.optim.SGD(masks.parameters, lr=options.learning_rate, momentum=options.momentum)
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, max(1, options.steps))
        self._weight = options.eta / max(1.0, len(clean_set.fit) / classifier.model.num_classes)
        # The schedule runs to its end; masks that do next to nothing always have room, and would be preferred.
        self.search = Search(
            self.before,
            epsilon=options.epsilon,
            alpha=1.0 if steered else options.eta,
            schedule="paper" if steered else "constant",
            check_every=options.check_every,
            patience=None,
            room=False,
        )
        self._steered = steered
        self._last: State | None = None

    def batch(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """A mini-batch as the loss takes it: augmented, mixed; behind it stamped copies and as many flagged images.

        Targets are class probabilities ``(n, K)``.
        """
        images = apply_all(self.changes, images, self._chance)
        targets = self._targets(images, labels)
        known = bool(self._triggers) or self.caught is not None
        alpha = (0.0 if known else 1.0) if self._options.mixup is None else self._options.mixup
        parts = [mixup(images, targets, alpha, self._chance, self._run.classifier.mixed)]
        if self._triggers:
            stamped, carries = stamp(images, labels, self._triggers, self._chance, self._run.classifier.task)
            shown = self._shown(int(carries.sum()))
            parts.append((stamped[carries][:shown], targets[carries][:shown]))
        if self.caught is not None:
            flagged, wanted = self.caught.draw(self._shown(len(images)), self._chance)
            parts.append((apply_all(self.changes, flagged, self._chance), self._shares(wanted)))
        pixels, shares = (torch.cat(part) for part in zip(*parts, strict=True))
        return pixels, shares

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy with class probabilities."""
        logits = self._stepping.logits(images, rewrite=self.masks.rewrite)
        return self._run.classifier.task.loss(logits, targets)

    def regularizer(self) -> Tensor:
        """``eta / n * ||1 - M||_1``."""
        return self._weight * self.masks.suppression()

    def after_step(self) -> None:
        """Keep every mask in its range, let the learning rate fall."""
        self.masks.clamp()
        self._schedule.step()

    @torch.no_grad()
    def check(self, step: int) -> bool:
        """Measure the present masks, with statistics re-estimated where that is asked for."""
        clean_set, masks = self._clean_set, self.masks
        if self._options.bn_stats == "reestimate":
            masks.reestimate(clean_set, clean_set.fit, self._run.batch_size)
        if step == 0 < self._options.steps:
            # No mask at all always holds the condition; it is no candidate.
            return True
        if self.caught is not None and not self.caught.settled:
            if 2 * step < self._options.steps:
                return True
            self.caught.settle(masks.rewrite)
            # Measured by its own answers any state looks good; the last one has to do where there is no other.
            if step < self._options.steps:
                return True
        measured: dict[str, Any] = {"batch_size": self._run.batch_size, "rewrite": masks.rewrite}
        hits = self._run.classifier.hits(clean_set, clean_set.deciding, **measured)
        cost = self._cost(measured)
        self._last = self.search.measured(step, hits, cost, [*masks.parameters, *masks.statistics()])
        if self._steered:
            self.search.alpha = min(1.0, self.search.alpha)
        return True

    def keep(self) -> State:
        """Go back to the state to keep: the best one, or the last where nothing was held out."""
        kept = self.search.best if len(self._clean_set.held_out) else self._last
        if kept is None:
            raise CalibrationError("no masks were measured")
        count = len(self.masks.parameters)
        with torch.no_grad():
            for parameter, value in zip(self.masks.parameters, kept.parameters[:count], strict=True):
                parameter.copy_(value)
        self.masks.set_statistics(kept.parameters[count:])
        return kept

    def _cost(self, measured: dict[str, Any]) -> float:
        """What decides among the states that hold the accuracy condition."""
        if not self._triggers and self.caught is None:
            return self.masks.mean()
        cost = 0.0 if self.caught is None else self.caught.loss(self.masks.rewrite)
        if self._triggers:
            clean_set = self._clean_set
            cost += triggered_loss(self._run.classifier, clean_set, clean_set.deciding, self._triggers, **measured)
        return cost

    def _shown(self, count: int) -> int:
        """How many of so many stamped or flagged images a step takes."""
        return max(1, round(self.search.alpha * count)) if self._steered and count else count

    def _shares(self, labels: Tensor) -> Tensor:
        classifier = self._run.classifier
        return classifier.task.shares(labels, classifier.model.num_classes)

    @torch.no_grad()
    def _targets(self, images: Tensor, labels: Tensor) -> Tensor:
        """Class probabilities ``(n, K)`` that clean images are to keep."""
        if self._options.targets == "labels":
            return self._shares(labels)
        logits = [self._stepping.logits(piece) for piece in images.split(self._run.batch_size)]
        return self._run.classifier.task.probabilities(torch.cat(logits))
