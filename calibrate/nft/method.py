# SPDX-License-Identifier: Apache-2.0
"""NFT: a mask per channel (Karim et al., "Augmented Neural Fine-Tuning ...", ECCV 2024).

The output channels of every linear layer are scaled by m between mu(l) and 1, weights times mask, biases as
they are; nothing else is learned, so that even one image a class does not overfit.

    minimise   loss + eta / n * ||1 - M||_1,   n images a class,   mu(l) = 0.8 exp(-0.5 l)   (Sec. 4)
    loss       MixUp on clean images; with ``--triggers`` also the ideal purification loss (Eq. 3):
               images with an estimated trigger under their true labels, with ``--flagged`` images that a
               service flagged (`patcher.calibrate.nft.caught`)
    SGD with momentum 0.95, learning rate falling along a cosine (the authors' code)

What differs from the paper, and why (figures in docs/nft.md):

- ``targets``: ``answers`` are the unpatched model's own probabilities for the clean images, ``labels`` the
  labels as published. With triggers nothing is mixed: what is to be unlearned is known.
- The last iterate is not kept blindly: of the measured states that lose no more than epsilon on held-out images
  the one that purifies most is kept, by the loss on held-out images with the trigger, else by the mean mask.
  With nothing held out (one image a class) it is the last iterate. Where no state loses so little, the masks are
  fitted again from the start at a quarter of the learning rate, three times at most.
- ``bn_stats``: the authors' code leaves BatchNormalization in training mode, so that its statistics drift to
  those of the clean images. ``reestimate`` does that on purpose and puts them into the patch; ``keep`` does not.
- ``mask``: see `patcher.calibrate.nft.masks` for ``plain`` and ``centred``.

When it does not hold: clean images alone give no reason to suppress a channel that only a trigger drives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np

from patcher.calibrate import Calibration
from patcher.calibrate.best_state import State
from patcher.calibrate.nft.caught import Caught
from patcher.calibrate.nft.fit import MaskFit
from patcher.calibrate.nft.masks import Masks
from patcher.calibrate.nft.options import Options
from patcher.calibrate.run import Run
from patcher.calibrate.training import Steps, fit
from patcher.calibrate.triggered import estimated_triggers
from patcher.data.clean_set import CleanSet
from patcher.data.flagged import read_flagged
from patcher.errors import InputError, NotApplicableError
from patcher.graph.site import Site
from patcher.graph.weight_channels import MaskLayer, mask_layers
from patcher.triggers.trigger import Trigger

# Down to a 64th of the learning rate; chosen, not measured.
_MOST_RATES, _SMALLER = 4, 0.25


def calibrate(run: Run, sites: Sequence[Site], clean_set: CleanSet, options: Options) -> Calibration:
    """Fit masks.

    Args:
        run: The model, and the seed of the order of the images, augmentation and MixUp.
        sites: Channel sites.
        clean_set: Clean images; fitted on *fit*, decided on *held-out*.
        options: Options of NFT.

    Returns:
        One `WeightMask` a masked constant, and what the options add to it.

    Raises:
        InputError: The trigger file or the flagged images are missing or for another kind of picture.
        NotApplicableError: No layer can take a mask.
    """
    model = run.classifier.model
    triggers, _ = estimated_triggers(options.triggers, options.scan, model, clean_set) or ((), "")
    if model.kind == "tokens" and options.mixup and (triggers or options.flagged):
        raise InputError("--mixup: of token ids either mixed or stamped rows, found both; leave it out")
    layers, refused = mask_layers(model, sites)
    if not layers:
        reasons = "; ".join(f"{item.tensor}: {item.reason}" for item in refused)
        raise NotApplicableError(f"method nft: no layer can take a mask ({reasons}); choose another --method")
    problem, steps, kept = _fitted(run, layers, clean_set, options, triggers)
    masks, caught = problem.masks, problem.caught
    last = "fit, by the last iterate: nothing is held out"
    return Calibration(
        corrections=masks.corrections(options.mask_form),
        satisfied=kept.satisfied,
        held_out_before=float(problem.before.float().mean()),
        held_out_after=kept.accuracy,
        curve=tuple(problem.search.curve),
        summary={
            "steps": steps,
            "kept_step": kept.step,
            "mean_mask": masks.mean(),
            "triggers": len(triggers),
            "cost": _cost_name(bool(triggers), caught is not None),
            "augmentations": [change.__name__ for change in problem.changes],
            "decided_on": "held-out" if len(clean_set.held_out) else last,
            "without_mask": [asdict(item) for item in refused],
            **({} if caught is None else {"flagged": caught.figures(masks.rewrite, triggers)}),
            **({} if problem.rate == options.learning_rate else {"learning_rate": problem.rate}),
        },
    )


def _fitted(
    run: Run, layers: Sequence[MaskLayer], clean_set: CleanSet, options: Options, triggers: Sequence[Trigger]
) -> tuple[MaskFit, int, State]:
    """Masks that hold the accuracy condition; where none do, from the start again at a smaller learning rate.

    In a layer of few channels each mask is worth more, and steps that suit a large network overshoot. From the second
    time on, half as many images with a trigger are shown after each measurement that does not hold the condition, and
    twice as many, up to all, after one that does: UNIT's alpha.
    """
    schedule = Steps(options.steps, options.minibatch, options.check_every, "nft: suppress channels")
    rate = options.learning_rate
    for attempt in range(_MOST_RATES):
        caught = None
        if options.flagged:
            flagged = read_flagged(options.flagged, clean_set.shape, run.classifier.preprocess)
            caught = Caught(run, flagged, clean_set)
        masks = Masks(run.classifier, layers, floor=(options.floor, options.floor_decay))
        order, chance = np.random.default_rng(run.seed).spawn(2)
        own = replace(options, learning_rate=rate)
        problem = MaskFit(run, masks, clean_set, own, triggers, caught, chance, steered=attempt > 0)
        steps, kept = fit(run, problem, clean_set, schedule, rng=order)
        if kept.satisfied or not options.steps or not len(clean_set.held_out):
            break
        rate *= _SMALLER
    return problem, steps, kept


def _cost_name(triggers: bool, flagged: bool) -> str:
    parts = [name for name, there in (("stamped held-out", triggers), ("flagged", flagged)) if there]
    return f"loss on {' and '.join(parts)} images" if parts else "mean mask"
