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
- Where the start alone breaks the accuracy condition (channels with heavy tails), z is doubled until it holds:
  up to each channel's highest clean value first, beyond that where held-out images lie higher still.
- Bounds on means (``--means``) start where they cost far too much and are let out channel by channel where the loss
  asks for it: that leaves less of a trigger, at the same accuracy, than tightening loose ones. Only where no state of
  the search holds the condition, their start is widened, too, and the search begins again.
- The kept bounds are those that were measured (line 13 of Algorithm 1; the authors' code keeps the bounds
  from before the step); see `patcher.calibrate.best_state`. Where a measurement fails, the search goes back to
  the best bounds instead of on from bad ones.

When it does not hold: a trigger whose activations stay inside the clean range is not bounded away.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from patcher.calibrate import Calibration
from patcher.calibrate.best_state import State
from patcher.calibrate.flag.fit import fit_flag
from patcher.calibrate.patched import refuse_single_score
from patcher.calibrate.run import Run
from patcher.calibrate.statistics import stream_means, stream_moments
from patcher.calibrate.training import Steps, fit
from patcher.calibrate.unit.bounds import Bounds, BoundSet, MeanBounds
from patcher.calibrate.unit.fit import BoundFit
from patcher.calibrate.unit.options import Options
from patcher.calibrate.unit.ties import tie_moments
from patcher.data.clean_set import CleanSet
from patcher.graph.site import Site
from patcher.patch import UpperBound


def calibrate(run: Run, sites: Sequence[Site], clean_set: CleanSet, options: Options) -> Calibration:
    """Fit upper bounds.

    Args:
        run: The model, and the seed of the order of the images.
        sites: Activation sites.
        clean_set: Clean images; fitted on *fit*, decided on *held-out* (on *fit* where nothing is held out).
        options: Options of UNIT.

    Returns:
        One `UpperBound` a site, and the curve of measurements.

    Raises:
        NotApplicableError: A flag is asked for, and the model gives one score of two classes.
    """
    if options.flag:
        refuse_single_score(run.classifier, "--flag")

    def batches(what: str) -> Iterator[tuple[Tensor, Tensor]]:
        images = run.classifier.batches(clean_set, clean_set.fit, run.batch_size)
        return run.watched(images, what, len(clean_set.fit))

    moments = stream_moments(run.classifier, sites, batches("unit: statistics"), granularity=options.granularity)
    if options.tie_residual:
        moments = tie_moments(moments, run.classifier.model, sites, options.z)
    kinds: list[Bounds] = [Bounds(moments, options.z)]
    # A flag answers unusual images under bounds on values alone.
    if options.means and not options.flag:
        kinds.append(MeanBounds(stream_means(run.classifier, sites, batches("unit: means")), options.mean_z))
    bounds = BoundSet(*kinds)
    problem, steps, best = _search(run, bounds, clean_set, options)
    corrections = bounds.corrections([site.tensor for site in sites])
    flagged: dict[str, Any] = {}
    if options.flag:
        limits = [UpperBound(site.tensor, kinds[0].array(site.tensor)) for site in sites]
        alarms, form = options.false_alarms, options.branch
        flag, figures = fit_flag(run, clean_set, moments, limits, false_alarms=alarms, form=form)
        corrections, flagged = (flag,), {"flag": figures}
    return Calibration(
        corrections=corrections,
        satisfied=best.satisfied,
        held_out_before=float(problem.before.float().mean()),
        held_out_after=best.accuracy,
        curve=tuple(problem.search.curve),
        summary={
            "steps": steps,
            "kept_step": best.step,
            "start_z": options.z * 2 ** kinds[0].doublings,
            **({"start_mean_z": options.mean_z * 2 ** kinds[1].doublings} if len(kinds) > 1 else {}),
            "tightness": best.tightness,
            "augmentations": [change.__name__ for change in problem.changes],
            "decided_on": clean_set.deciding_split,
            **flagged,
        },
    )


def _search(run: Run, bounds: BoundSet, clean_set: CleanSet, options: Options) -> tuple[BoundFit, int, State]:
    """Fit the bounds; where those on means stay too tight for the condition, once more from a wider start.

    Returns:
        What was fitted, steps done, and what is kept.
    """
    order, chance = np.random.default_rng(run.seed).spawn(2)
    schedule = Steps(options.steps, options.minibatch, options.check_every, "unit: tighten bounds")
    values, *means = bounds.kinds
    problem = BoundFit(run, bounds, clean_set, options, chance)
    problem.widen_start(values, values)
    steps, best = fit(run, problem, clean_set, schedule, rng=order)
    if means and not best.satisfied:
        bounds.restart()
        problem = BoundFit(run, bounds, clean_set, options, chance)
        problem.widen_start(means[0], bounds)
        steps, best = fit(run, problem, clean_set, schedule, rng=order)
    return problem, steps, best
