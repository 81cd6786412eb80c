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
- ``mask``: see `patcher.calibrate.nft.masks` for ``plain`` and ``centred``.

When it does not hold: clean images alone give no reason to suppress a channel that only a trigger drives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import torch

from patcher.calibrate import Calibration
from patcher.calibrate.classifier import Classifier
from patcher.calibrate.nft.masks import Masks
from patcher.calibrate.nft.options import Options
from patcher.calibrate.nft.run import Run
from patcher.calibrate.training import fit
from patcher.calibrate.triggered import estimated_triggers
from patcher.data.clean_set import CleanSet
from patcher.errors import NotApplicableError
from patcher.graph.site import Site
from patcher.graph.weight_channels import mask_layers
from patcher.progress import Progress, no_progress


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
    run = Run(classifier, clean_set, masks, options, triggers, chance, batch_size)
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
