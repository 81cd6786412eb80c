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
from numpy.typing import NDArray

from patcher.calibrate.minibatches import Minibatches
from patcher.data.clean_set import Indices
from patcher.tasks import SINGLE_LABEL, Task


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


def eligible(goal: Goal, labels: NDArray[np.int64], indices: Indices, task: Task = SINGLE_LABEL) -> Indices:
    """Those of `indices` whose images the goal is about, int64 ``(n,)``."""
    sources = () if goal.source is None else (goal.source,)
    return np.asarray(indices[task.carries(labels[indices], goal.target, sources)], np.int64)


class Draw:
    """Endless seeded mini-batches, one stream a goal; a goal with few images sees them again and again."""

    def __init__(self, pools: Sequence[Indices], seed: int) -> None:
        self._streams = [Minibatches(pool, np.random.default_rng((seed, row))) for row, pool in enumerate(pools)]

    def next(self, row: int, count: int) -> Indices:
        """The next `count` indices of goal number `row`; independent of what other goals drew."""
        return self._streams[row].take(count)
