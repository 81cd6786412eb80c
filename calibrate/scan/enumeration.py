# SPDX-License-Identifier: Apache-2.0
"""Families where no gradient leads: each of their candidates is tried on the same images, for all goals at once.

One forward pass of an image and candidate serves every goal, so this is the cheapest search there is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from patcher.calibrate.classifier import Classifier
from patcher.calibrate.scan.goal import Goal, eligible
from patcher.calibrate.scan.inversion import Budget, Inverted, wanted_success
from patcher.data.clean_set import CleanSet
from patcher.progress import Progress, no_progress
from patcher.triggers.family import family_of
from patcher.triggers.trigger import Trigger

_IMAGES = 128


@torch.no_grad()
def try_candidates(
    classifier: Classifier,
    clean_set: CleanSet,
    goals: Sequence[Goal],
    family: str,
    budget: Budget,
    *,
    seed: int,
    batch_size: int,
    progress: Progress = no_progress,
    description: str = "try",
) -> list[Inverted]:
    """The smallest candidate that reaches each goal, else the most successful; see `invert`, whose arguments it has."""
    kind, shape, task = family_of(family), clean_set.shape, clean_set.task
    chosen = np.random.default_rng((seed, 4)).permutation(clean_set.fit)[:_IMAGES]
    labels = clean_set.labels[chosen]
    pools = [np.isin(chosen, eligible(goal, clean_set.labels, clean_set.fit, task)) for goal in goals]
    wanted = wanted_success(goals, budget, classifier.model.num_classes)
    candidates = kind.candidates(shape)
    sample = clean_set.images(chosen[:1])
    sizes = [float(kind.size(values, sample)[0]) for values in candidates]
    best: dict[int, Inverted] = {}
    for number, place in enumerate(np.argsort(sizes, kind="stable"), start=1):
        values = {name: array[0] for name, array in candidates[place].items()}
        trigger = Trigger(family, 0, (), values, shape)
        batches = classifier.batches(clean_set, chosen, batch_size)
        answers = np.concatenate(
            [task.answers(classifier.logits(trigger.apply(images)).cpu().numpy(), "logits") for images, _ in batches]
        )
        for row, (goal, pool) in enumerate(zip(goals, pools, strict=True)):
            hits = ~task.right(answers, labels) if goal.target is None else task.reached(answers, goal.target)
            success = float(hits[pool].mean()) if pool.any() else 0.0
            reached = bool(success >= wanted[row])
            before = best.get(row)
            if before is None or (not before.reached and (reached or success > before.success)):
                size = sizes[place] if reached else max(sizes)
                best[row] = Inverted(goal, family, values, size, success, reached, number)
        progress(description, number, len(candidates))
    return [best[row] for row in range(len(goals))]
