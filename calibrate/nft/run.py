# SPDX-License-Identifier: Apache-2.0
"""One run of NFT: batches, their loss, and the measurements in between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from patcher.calibrate.augmentation import Augmentation, apply_all, tolerated
from patcher.calibrate.best_state import Search, State
from patcher.calibrate.classifier import Classifier
from patcher.calibrate.nft.masks import Masks
from patcher.calibrate.nft.mixup import mixup
from patcher.calibrate.nft.options import Options
from patcher.calibrate.triggered import stamp, triggered_loss
from patcher.data.clean_set import CleanSet
from patcher.errors import CalibrationError
from patcher.triggers.trigger import Trigger


class Run:
    """What the fit loop calls: batches, their loss, and the measurement in between."""

    def __init__(
        self,
        classifier: Classifier,
        clean_set: CleanSet,
        masks: Masks,
        options: Options,
        triggers: Sequence[Trigger],
        chance: np.random.Generator,
        batch_size: int,
    ) -> None:
        self.classifier, self.clean_set, self.masks, self.options = classifier, clean_set, masks, options
        self.triggers, self.chance, self.batch_size = triggers, chance, batch_size
        self.held_out = len(clean_set.held_out) > 0
        self._decide = clean_set.held_out if self.held_out else clean_set.fit
        if options.mask == "centred":
            masks.centre(clean_set, clean_set.fit, batch_size)
        if options.bn_stats == "reestimate":
            masks.keep_statistics(clean_set, clean_set.fit, batch_size)
        self.before = classifier.hits(clean_set, self._decide, batch_size=batch_size)
        self.changes: Sequence[Augmentation] = (
            tolerated(classifier, clean_set, epsilon=options.epsilon, rng=chance) if options.augment else ()
        )
        # The schedule runs to its end; masks that do next to nothing always have room, and would be preferred.
        self.search = Search(
            self.before,
            epsilon=options.epsilon,
            alpha=options.eta,
            schedule="constant",
            check_every=options.check_every,
            patience=None,
            room=False,
        )
        self._last: State | None = None

    def mix(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """A mini-batch as the loss takes it: augmented, mixed, stamped copies behind; targets ``(n, K)``."""
        images = apply_all(self.changes, images, self.chance)
        targets = self._targets(images, labels)
        alpha = (0.0 if self.triggers else 1.0) if self.options.mixup is None else self.options.mixup
        mixed, shares = mixup(images, targets, alpha, self.chance)
        if not self.triggers:
            return mixed, shares
        stamped, carries = stamp(images, labels, self.triggers, self.chance)
        return torch.cat([mixed, stamped[carries]]), torch.cat([shares, targets[carries]])

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy with class probabilities."""
        logits = self.classifier.logits(images, rewrite=self.masks.rewrite)
        return torch.nn.functional.cross_entropy(logits, targets)

    @torch.no_grad()
    def check(self, step: int) -> bool:
        """Measure the present masks, with statistics re-estimated where that is asked for."""
        clean_set, masks = self.clean_set, self.masks
        if self.options.bn_stats == "reestimate":
            masks.reestimate(clean_set, clean_set.fit, self.batch_size)
        if step == 0 < self.options.steps:
            # No mask at all always holds the condition; it is no candidate.
            return True
        measured: dict[str, Any] = {"batch_size": self.batch_size, "rewrite": masks.rewrite}
        hits = self.classifier.hits(clean_set, self._decide, **measured)
        cost = masks.mean()
        if self.triggers:
            cost = triggered_loss(self.classifier, clean_set, self._decide, self.triggers, **measured)
        self._last = self.search.measured(step, hits, cost, [*masks.parameters, *masks.statistics()])
        return True

    def restore(self) -> State:
        """Go back to the state to keep: the best one, or the last where nothing was held out."""
        kept = self.search.best if self.held_out else self._last
        if kept is None:
            raise CalibrationError("no masks were measured")
        count = len(self.masks.parameters)
        with torch.no_grad():
            for parameter, value in zip(self.masks.parameters, kept.parameters[:count], strict=True):
                parameter.copy_(value)
        self.masks.set_statistics(kept.parameters[count:])
        return kept

    @torch.no_grad()
    def _targets(self, images: Tensor, labels: Tensor) -> Tensor:
        classes = self.classifier.model.num_classes
        if self.options.targets == "labels":
            return torch.nn.functional.one_hot(labels, classes).float()
        return torch.cat([self.classifier.logits(part) for part in images.split(self.batch_size)]).softmax(dim=1)
