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
  from before the step); see `patcher.calibrate.search`. Where a measurement fails, the search goes back to
  the best bounds instead of on from bad ones.

When it does not hold: a trigger whose activations stay inside the clean range is not bounded away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patcher.calibrate import Calibration, Progress, no_progress
from patcher.calibrate.augmentation import Augmentation, apply_all, tolerated
from patcher.calibrate.classifier import Classifier
from patcher.calibrate.ranges import check_ranges
from patcher.calibrate.search import AlphaSchedule, Search, restore
from patcher.calibrate.statistics import Granularity, Moments, stream_moments
from patcher.calibrate.ties import shared_parameters, tie_moments
from patcher.calibrate.training import fit
from patcher.clean_set import CleanSet
from patcher.errors import CalibrationError
from patcher.graph.site import Site
from patcher.patch import UpperBound


@dataclass(frozen=True)
class Options:
    """Options of UNIT.

    Attributes:
        granularity: One bound a channel, or one an element of the activation map.
        epsilon: Accuracy that may be lost on held-out images, 0 to 1.
        steps: Optimiser steps at most.
        minibatch: Images a step.
        learning_rate: Of Adam at the start, on the logarithm of z; it falls to 0 along a cosine.
        z: Standard deviations above the mean at the start.
        alpha: Weight of the regulariser at the start.
        alpha_schedule: How alpha follows the accuracy condition.
        loss: What is kept on clean images.
        augment: Mirror and shift images under ``distillation``, as far as the model itself bears it.
        regularizer: What is made tight.
        check_every: Steps between measurements on held-out images.
        tie_residual: One bound vector for the sites along a residual stream.
    """

    granularity: Granularity = field(default="channel", metadata={"help": "one bound a channel, or one an element"})
    epsilon: float = field(default=0.02, metadata={"help": "accuracy that may be lost on held-out images, 0 to 1"})
    steps: int = field(default=300, metadata={"help": "optimiser steps at most"})
    minibatch: int = field(default=64, metadata={"help": "images an optimiser step"})
    learning_rate: float = field(default=0.03, metadata={"help": "of Adam at the start; falls to 0 along a cosine"})
    z: float = field(default=4.0, metadata={"help": "start: standard deviations above the mean"})
    alpha: float = field(default=0.01, metadata={"help": "weight of the regulariser at the start"})
    alpha_schedule: AlphaSchedule = field(
        default="paper", metadata={"help": "how the weight of the regulariser follows the accuracy condition"}
    )
    loss: Literal["distillation", "cross-entropy"] = field(
        default="distillation", metadata={"help": "keep the model's own answers, or the labels"}
    )
    augment: bool = field(default=True, metadata={"help": "mirror and shift images where the model bears it"})
    regularizer: Literal["relative", "absolute"] = field(
        default="relative", metadata={"help": "bounds relative to their start, or as they are"}
    )
    check_every: int = field(default=10, metadata={"help": "steps between measurements on held-out images"})
    tie_residual: bool = field(default=False, metadata={"help": "one bound vector along a residual stream"})

    def __post_init__(self) -> None:
        check_ranges(self, "minibatch", "check_every", least=1)
        check_ranges(self, "steps", least=0)
        check_ranges(self, "epsilon", least=0, below=1)
        check_ranges(self, "learning_rate", "z", "alpha", above=0)


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
    bounds = _Bounds(moments, options.z)
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


class _Bounds:
    """The bounds of all sites as functions of one parameter tensor a site."""

    def __init__(self, moments: Mapping[str, Moments], z: float) -> None:
        self.mean = {name: found.mean.float() for name, found in moments.items()}
        self.spread = {name: (z * found.std).float() for name, found in moments.items()}
        self.log_scale = shared_parameters(moments)
        self.rewrite: Mapping[str, Callable[[Tensor], Tensor]] = {name: self._apply(name) for name in self.mean}

    @property
    def parameters(self) -> list[Tensor]:
        return list({id(part): part for part in self.log_scale.values()}.values())

    def bound(self, name: str) -> Tensor:
        """``mean + z * std``, of the site's rank with a leading 1."""
        return self.mean[name] + self.spread[name] * self.log_scale[name].exp()

    def array(self, name: str) -> NDArray[np.float32]:
        """The bound as it goes into the patch."""
        return self.bound(name).detach().cpu().numpy()

    def tightness(self, regularizer: str) -> Tensor:
        """Sum over sites of the mean bound, relative to the start or absolute."""
        if regularizer == "absolute":
            return torch.stack([self.bound(name).mean() for name in self.mean]).sum()
        return torch.stack([scale.exp().mean() for scale in self.log_scale.values()]).sum()

    def _apply(self, name: str) -> Callable[[Tensor], Tensor]:
        return lambda value: _minimum(value, self.bound(name))


def _minimum(value: Tensor, bound: Tensor) -> Tensor:
    return cast(Tensor, _Minimum.apply(value, bound))  # type: ignore[no-untyped-call]


class _Minimum(torch.autograd.Function):
    """``min(value, bound)`` with a backward that is half as long as ``torch.minimum``'s.

    Where both are equal the whole gradient goes to the bound.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, bound: Tensor) -> Tensor:
        ctx.save_for_backward(value, bound)
        return torch.minimum(value, bound)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        value, bound = ctx.saved_tensors
        passed = gradient * (value < bound)
        return passed, (gradient - passed).sum_to_size(bound.shape)
