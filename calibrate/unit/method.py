# SPDX-License-Identifier: Apache-2.0
"""UNIT: a tight upper bound per neuron (Cheng et al., ECCV 2024).

Behind each activation site, ``min(F, bound)``. A backdoor drives neurons to values that clean images
never reach; a bound just above the clean range takes that away and leaves clean images alone.

    bound = mean + z * std,   z = 4 at the start (Sec. 4.2), one z per channel or element, z = 4 exp(s)
    minimise   loss(fit images) + alpha * sum over sites of tightness(bound)   over s
    keep       the tightest bounds with   accuracy >= accuracy before - epsilon   on held-out images

What differs from the paper, and why (figures in docs/unit.md):

- z is optimised instead of the bound itself, so that one learning rate serves sites of every scale and
  a channel whose values are all negative keeps a sensible bound.
- ``loss``: ``distillation`` (Kullback-Leibler divergence from the unpatched model's own answers, on mirrored
  and shifted images where the model bears that) holds accuracy on new images better than cross-entropy,
  which a few images soon overfit.
- ``regularizer``: ``relative`` takes z / 4, so that every site pays alike; ``absolute`` is the mean bound
  of each site, the authors' code. The paper's sum over all neurons makes alpha meaningless at C*H*W scale.
- The kept bounds are those that were measured (line 13 of Algorithm 1; the authors' code keeps the bounds
  from before the step); see `patcher.calibrate.best_state`. Where a measurement fails, the search goes back to
  the best bounds instead of on from bad ones.

When it does not hold: a trigger whose activations stay inside the clean range is not bounded away.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from patcher.calibrate import Calibration
from patcher.calibrate.augmentation import Augmentation, apply_all, tolerated
from patcher.calibrate.best_state import Search, restore
from patcher.calibrate.classifier import Classifier
from patcher.calibrate.statistics import stream_moments
from patcher.calibrate.training import fit
from patcher.calibrate.unit.bounds import Bounds
from patcher.calibrate.unit.options import Options
from patcher.calibrate.unit.ties import tie_moments
from patcher.data.clean_set import CleanSet
from patcher.errors import CalibrationError
from patcher.graph.site import Site
from patcher.patch import UpperBound
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
    """Fit upper bounds.

    Args:
        classifier: The model; its weights stay frozen.
        sites: Activation sites.
        clean_set: Clean images; fitted on *fit*, decided on *held-out* (on *fit* where nothing is held out).
        options: Options of UNIT.
        seed: Order of the images.
        batch_size: Images in memory at a time.
        progress: Told of each step.

    Returns:
        One `UpperBound` a site, and the curve of measurements.
    """
    moments = stream_moments(
        classifier, sites, classifier.batches(clean_set, clean_set.fit, batch_size), granularity=options.granularity
    )
    if options.tie_residual:
        moments = tie_moments(moments, classifier.model, sites, options.z)
    bounds = Bounds(moments, options.z)
    decide = clean_set.held_out if len(clean_set.held_out) else clean_set.fit
    before = classifier.hits(clean_set, decide, batch_size=batch_size)
    optimizer = torch.optim.Adam(bounds.parameters, lr=options.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, options.steps))
    search = Search(
        before,
        epsilon=options.epsilon,
        alpha=options.alpha,
        schedule=options.alpha_schedule,
        check_every=options.check_every,
    )

    def check(step: int) -> bool:
        with torch.no_grad():
            hits = classifier.hits(clean_set, decide, batch_size=batch_size, rewrite=bounds.rewrite)
            tightness = float(bounds.tightness(options.regularizer)) / len(sites)
        state = search.measured(step, hits, tightness, bounds.parameters)
        if search.best and search.best.safe and not state.safe:
            # Steps among bounds that cost too much buy nothing: back to the best, with a smaller alpha.
            restore(search.best, bounds.parameters, optimizer)
        return not search.exhausted(step)

    order, chance = np.random.default_rng(seed).spawn(2)

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        if options.loss == "cross-entropy":
            return torch.nn.functional.cross_entropy(classifier.logits(images, rewrite=bounds.rewrite), labels)
        with torch.no_grad():
            wanted = classifier.logits(images).log_softmax(dim=1)
        found = classifier.logits(images, rewrite=bounds.rewrite).log_softmax(dim=1)
        search.seen(wanted.argmax(dim=1) == labels, found.argmax(dim=1) == labels)
        return torch.nn.functional.kl_div(found, wanted, log_target=True, reduction="batchmean")

    changes: Sequence[Augmentation] = ()
    if options.augment and options.loss == "distillation":
        changes = tolerated(classifier, clean_set, epsilon=options.epsilon, rng=chance)
    steps = fit(
        classifier,
        clean_set,
        torch.from_numpy(clean_set.labels).to(classifier.device),
        loss,
        optimizer,
        steps=options.steps,
        minibatch=options.minibatch,
        batch_size=batch_size,
        rng=order,
        check=check,
        check_every=options.check_every,
        augment=lambda images: apply_all(changes, images, chance),
        after_step=schedule.step,
        regularizer=lambda: search.alpha * bounds.tightness(options.regularizer),
        progress=progress,
        description="unit: tighten bounds",
    )
    best = search.best
    if best is None:
        raise CalibrationError("no bounds were measured")
    restore(best, bounds.parameters, optimizer)
    return Calibration(
        corrections=tuple(UpperBound(site.tensor, bounds.array(site.tensor)) for site in sites),
        satisfied=best.satisfied,
        held_out_before=float(before.float().mean()),
        held_out_after=best.accuracy,
        curve=tuple(search.curve),
        summary={
            "steps": steps,
            "kept_step": best.step,
            "tightness": best.tightness,
            "augmentations": [change.__name__ for change in changes],
            "decided_on": "held-out" if len(clean_set.held_out) else "fit",
        },
    )
