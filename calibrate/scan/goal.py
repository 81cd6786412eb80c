# SPDX-License-Identifier: Apache-2.0
"""Goals of an inversion: which images are to be sent where.

- ``Goal(target=t)``              all images of other classes to t
- ``Goal(target=t, source=s)``    images of class s to t
- ``Goal(target=None)``           every image to any class but its own: one universal change that finds
  all-to-one and all-to-all backdoors alike, without trying the C (C - 1) ordered pairs
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patcher.calibrate.minibatches import Minibatches
from patcher.data.clean_set import Indices


@dataclass(frozen=True)
class Goal:
    """Where images are to be sent.

    Attributes:
        target: Class wanted; ``None`` for any class but the image's own.
        source: Class of the images; ``None`` for all classes but the target.
    """

    target: int | None
    source: int | None = None


ANYWHERE = Goal(None)


def eligible(goal: Goal, labels: NDArray[np.int64], indices: Indices) -> Indices:
    """Those of `indices` whose images the goal is about, int64 ``(n,)``."""
    own = labels[indices]
    if goal.source is not None:
        wanted = own == goal.source
    else:
        wanted = np.ones(len(own), bool) if goal.target is None else own != goal.target
    return np.asarray(indices[wanted], np.int64)


def margins(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Log-odds of success, positive where an image goes where its goal wants it.

    Args:
        logits: ``(n, K)``.
        labels: int64 ``(n,)``: the images' own classes.
        targets: int64 ``(n,)``: classes wanted; -1 for any class but the own one.

    Returns:
        ``(n,)``: logit of the target minus the largest of the others; for -1 the largest of the others
        minus the own.
    """
    anywhere = targets < 0
    wanted = torch.where(anywhere, labels, targets)[:, None]
    chosen = logits.gather(1, wanted)[:, 0]
    others = logits.scatter(1, wanted, -torch.inf).amax(dim=1)
    return torch.where(anywhere, others - chosen, chosen - others)


def losses(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy with the target, or ``-log(1 - p(own class))`` where any other class will do; ``(n,)``."""
    anywhere = targets < 0
    wanted = torch.where(anywhere, labels, targets)[:, None]
    total = logits.logsumexp(dim=1)
    chosen = logits.gather(1, wanted)[:, 0]
    others = logits.scatter(1, wanted, -torch.inf).logsumexp(dim=1)
    return total - torch.where(anywhere, others, chosen)


class Draw:
    """Endless seeded mini-batches, one stream a goal; a goal with few images sees them again and again."""

    def __init__(self, pools: Sequence[Indices], seed: int) -> None:
        self._streams = [Minibatches(pool, np.random.default_rng((seed, row))) for row, pool in enumerate(pools)]

    def next(self, row: int, count: int) -> Indices:
        """The next `count` indices of goal number `row`; independent of what other goals drew."""
        return self._streams[row].take(count)
