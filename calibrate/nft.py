# SPDX-License-Identifier: Apache-2.0
"""NFT: a mask per channel (Karim et al., "Augmented Neural Fine-Tuning ...", ECCV 2024).

The output channels of every linear layer are scaled by m between mu(l) and 1, weights times mask, biases as
they are; nothing else is learned, so that even one image a class does not overfit.

    minimise   loss + eta / n * ||1 - M||_1,   n images a class,   mu(l) = 0.8 exp(-0.5 l)   (Sec. 4)
    loss       MixUp on clean images; with ``--triggers`` also the ideal purification loss (Eq. 3):
               images with an estimated trigger under their true labels
    SGD with momentum 0.95, learning rate falling along a cosine (the authors' code)

What differs from the paper, and why (figures in docs/nft.md):

- ``targets``: ``answers`` are the unpatched model's own probabilities for the clean images, ``labels`` the
  labels as published. With triggers nothing is mixed: what is to be unlearned is known.
- The last iterate is not kept blindly: of the measured states that lose no more than epsilon on held-out images
  the one that purifies most is kept, by the loss on held-out images with the trigger, else by the mean mask.
  With nothing held out (one image a class) it is the last iterate.
- ``bn_stats``: the authors' code leaves BatchNormalization in training mode, so that its statistics drift to
  those of the clean images. ``reestimate`` does that on purpose and puts them into the patch; ``keep`` does not.
- ``mask``: see `patcher.calibrate.masks` for ``plain`` and ``centred``.

When it does not hold: clean images alone give no reason to suppress a channel that only a trigger drives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from patcher.calibrate import Calibration, Progress, no_progress
from patcher.calibrate.augmentation import Augmentation, apply_all, tolerated
from patcher.calibrate.classifier import Classifier
from patcher.calibrate.mask_layers import mask_layers
from patcher.calibrate.masks import Masks
from patcher.calibrate.mixup import mixup
from patcher.calibrate.ranges import check_ranges
from patcher.calibrate.search import Search, State
from patcher.calibrate.training import fit
from patcher.calibrate.triggered import estimated_triggers, stamp, triggered_loss
from patcher.clean_set import CleanSet
from patcher.errors import CalibrationError, NotApplicableError
from patcher.graph.site import Site
from patcher.patch import MaskForm
from patcher.trigger import Trigger


@dataclass(frozen=True)
class Options:
    """Options of NFT.

    Attributes:
        triggers: File of estimated triggers; adds the ideal purification loss.
        scan: ``scan.json`` of an earlier scan of this model, in place of `triggers`.
        mask: What a suppressed channel falls back to.
        bn_stats: Whether layer statistics are re-estimated on clean images under the masks.
        epsilon: Accuracy that may be lost on held-out images, 0 to 1.
        steps: Optimiser steps.
        minibatch: Clean images a step; with triggers as many stamped ones come on top.
        learning_rate: Of SGD at the start; it falls to 0 along a cosine.
        momentum: Of SGD.
        eta: Weight of the regulariser, divided by the fit images a class.
        mixup: Parameter of the Beta distribution of MixUp; 0 mixes nothing; ``None`` for 0 with triggers, else 1.
        augment: Flip and shift the images as far as the model bears it.
        targets: What the masked model is to answer.
        floor: mu(l) at l = 0.
        floor_decay: By how much a layer the logarithm of mu(l) falls.
        check_every: Steps between measurements.
        mask_form: Masks as products in the graph, or multiplied into the weights.
    """

    triggers: str | None = field(default=None, metadata={"help": "estimated triggers, .npz", "recorded": False})
    scan: str | None = field(
        default=None, metadata={"help": "scan.json of 'patcher scan'; bna without it scans first", "recorded": False}
    )
    mask: Literal["plain", "centred"] = field(
        default="centred", metadata={"help": "suppress towards the bias, or towards the channel's clean mean"}
    )
    bn_stats: Literal["keep", "reestimate"] = field(
        default="keep", metadata={"help": "keep layer statistics, or re-estimate them on clean images"}
    )
    epsilon: float = field(default=0.02, metadata={"help": "accuracy that may be lost on held-out images, 0 to 1"})
    steps: int = field(default=400, metadata={"help": "optimiser steps"})
    minibatch: int = field(default=64, metadata={"help": "clean images an optimiser step"})
    learning_rate: float = field(default=0.05, metadata={"help": "of SGD at the start; falls to 0 along a cosine"})
    momentum: float = field(default=0.95, metadata={"help": "of SGD"})
    eta: float = field(default=5e-4, metadata={"help": "weight of the regulariser, divided by fit images a class"})
    mixup: float | None = field(
        default=None, metadata={"help": "parameter of the Beta distribution, 0 for none; without triggers 1, else 0"}
    )
    augment: bool = field(default=True, metadata={"help": "flip and shift images as far as the model bears it"})
    targets: Literal["answers", "labels"] = field(
        default="answers", metadata={"help": "keep the model's own probabilities, or the labels"}
    )
    floor: float = field(default=0.8, metadata={"help": "smallest mask before the first layer"})
    floor_decay: float = field(default=0.5, metadata={"help": "decay of the smallest mask a layer"})
    check_every: int = field(default=20, metadata={"help": "steps between measurements on held-out images"})
    mask_form: MaskForm = field(default="mask", metadata={"help": "a product the runtime folds, or into the weights"})

    def __post_init__(self) -> None:
        check_ranges(self, "minibatch", "check_every", least=1)
        check_ranges(self, "steps", "eta", "floor_decay", least=0)
        check_ranges(self, "epsilon", "momentum", "floor", least=0, most=1)
        check_ranges(self, "learning_rate", above=0)
        if self.mixup is not None:
            check_ranges(self, "mixup", least=0)


def calibrate(
    classifier: Classifier,
    sites: Sequence[Site],
    clean_set: CleanSet,
    options: Options,
    *,
    seed: int,
    batch_size: int,
    progress: Progress = no_progress,
) -> Calibration:
    """Fit masks.

    Args:
        classifier: The model; its weights stay frozen.
        sites: Channel sites.
        clean_set: Clean images; fitted on *fit*, decided on *held-out*.
        options: Options of NFT.
        seed: Order of the images, augmentation and MixUp.
        batch_size: Images in memory at a time.
        progress: Told of each step.

    Returns:
        One `WeightMask` a masked constant, and what the options add to it.

    Raises:
        InputError: The trigger file is missing or for another kind of picture.
        NotApplicableError: No layer can take a mask.
    """
    triggers, _ = estimated_triggers(options.triggers, options.scan, classifier.model, clean_set) or ((), "")
    layers, refused = mask_layers(classifier.model, sites)
    if not layers:
        reasons = "; ".join(f"{item.tensor}: {item.reason}" for item in refused)
        raise NotApplicableError(f"method nft: no layer can take a mask ({reasons}); choose another --method")
    masks = Masks(classifier, layers, floor=(options.floor, options.floor_decay))
    order, chance = np.random.default_rng(seed).spawn(2)
    run = _Run(classifier, clean_set, masks, options, triggers, chance, batch_size)
    optimizer = torch.optim.SGD(masks.parameters, lr=options.learning_rate, momentum=options.momentum)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, options.steps))
    weight = options.eta / max(1.0, len(clean_set.fit) / classifier.model.num_classes)

    def after_step() -> None:
        masks.clamp()
        schedule.step()

    steps = fit(
        classifier,
        clean_set,
        torch.from_numpy(clean_set.labels).to(classifier.device),
        run.loss,
        optimizer,
        steps=options.steps,
        minibatch=options.minibatch,
        batch_size=batch_size,
        rng=order,
        check=run.check,
        check_every=options.check_every,
        mix=run.mix,
        regularizer=lambda: weight * masks.suppression(),
        after_step=after_step,
        progress=progress,
        description="nft: suppress channels",
    )
    kept = run.restore()
    return Calibration(
        corrections=masks.corrections(options.mask_form),
        satisfied=kept.satisfied,
        held_out_before=float(run.before.float().mean()),
        held_out_after=kept.accuracy,
        curve=tuple(run.search.curve),
        summary={
            "steps": steps,
            "kept_step": kept.step,
            "mean_mask": masks.mean(),
            "triggers": len(triggers),
            "cost": "loss on stamped held-out images" if triggers else "mean mask",
            "augmentations": [change.__name__ for change in run.changes],
            "decided_on": "held-out" if run.held_out else "fit, by the last iterate: nothing is held out",
            "without_mask": [asdict(item) for item in refused],
        },
    )


class _Run:
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
