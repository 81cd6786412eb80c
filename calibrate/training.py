# SPDX-License-Identifier: Apache-2.0
"""The fit loop of every method: mini-batches in a seeded order, one optimiser step each, checks in between.

The loop knows nothing of what is fitted: a method gives the parameters, the loss of a batch, and a check
that measures the present state (on held-out images) and says whether to go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from patcher.calibrate.classifier import Classifier
from patcher.data.clean_set import CleanSet, Indices
from patcher.progress import Progress, no_progress

Loss = Callable[[Tensor, Tensor], Tensor]
"""Images ``(n, C, H, W)`` and their targets ``(n, ...)`` to the mean loss over them, a scalar."""


def shuffled(indices: Indices, batch_size: int, rng: np.random.Generator) -> Iterator[Indices]:
    """Endless mini-batches: every epoch is a new permutation of `indices`, a short rest joins the next one."""
    waiting = np.empty(0, np.int64)
    size = min(batch_size, len(indices))
    while True:
        while len(waiting) < size:
            waiting = np.concatenate([waiting, rng.permutation(indices)])
        yield waiting[:size]
        waiting = waiting[size:]


def fit(
    classifier: Classifier,
    clean_set: CleanSet,
    targets: Tensor,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    *,
    steps: int,
    minibatch: int,
    batch_size: int,
    rng: np.random.Generator,
    check: Callable[[int], bool],
    check_every: int,
    augment: Callable[[Tensor], Tensor] | None = None,
    mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
    regularizer: Callable[[], Tensor] | None = None,
    after_step: Callable[[], None] | None = None,
    progress: Progress = no_progress,
    description: str = "calibrate",
) -> int:
    """Minimise `loss` over the *fit* images.

    Args:
        classifier: Gives tensors of images on its device.
        clean_set: Source of the mini-batches.
        targets: One row for each image of `clean_set`, labels or whatever `loss` compares with.
        loss: Of the images of one mini-batch.
        optimizer: Holds the parameters.
        steps: Optimiser steps at most.
        minibatch: Images a step.
        batch_size: Images in memory at a time: a larger mini-batch is cut, its gradients added up.
        rng: Order of the images.
        check: Called with the steps done, before the first and after each `check_every`-th and the last
            step; returns whether to go on.
        check_every: Steps between checks.
        augment: Applied to the pixels of each mini-batch.
        mix: Applied to the pixels and targets of each mini-batch; may give other targets and another count.
        regularizer: Of the parameters alone; added to the loss once a step.
        after_step: Called behind each step, to keep parameters in their range.
        progress: Told of each step.
        description: What `progress` shows.

    Returns:
        Steps done.
    """
    batches = shuffled(clean_set.fit, minibatch, rng)
    if not check(0):
        return 0
    for step in range(1, steps + 1):
        chosen = next(batches)
        optimizer.zero_grad(set_to_none=True)
        images = classifier.tensor(clean_set.images(chosen))
        # Before the cut, so that chance does not depend on the batch size.
        images = augment(images) if augment else images
        wanted = targets[torch.from_numpy(chosen).to(targets.device)]
        if mix:
            images, wanted = mix(images, wanted)
        for piece, labels in zip(images.split(batch_size), wanted.split(batch_size), strict=True):
            (loss(piece, labels) * (len(piece) / len(images))).backward()
        if regularizer:
            regularizer().backward()
        optimizer.step()
        if after_step:
            after_step()
        progress(description, step, steps)
        if (step % check_every == 0 or step == steps) and not check(step):
            return step
    return steps
