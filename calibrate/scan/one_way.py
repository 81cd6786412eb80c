# SPDX-License-Identifier: Apache-2.0
"""A backdoor of one source class, without any form of trigger: one way between two classes is far shorter than back.

    d(s, t)  length of the smallest shift of the last features that gives t on 95 % of the clean images of class s
    e        log d without what belongs to a row or a column (median polish): how far a class is from everywhere, and
             how easily it is reached
    score(s, t) = (e(t, s) - e(s, t)) / (1.4826 MAD over all pairs)

Classes that look alike are near both ways; a trigger opens one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patcher.calibrate.scan.latent import LatentSpace
from patcher.calibrate.scan.outliers import MINIMUM_CLASSES, robust_deviation

_MOST_CLASSES = 43  # a programme for each ordered pair
_FEWEST_IMAGES = 10
_ROUNDS = 20
_SMALLEST = 1e-3  # of the median distance: a class whose images have the other one anyway
_SHOWN = 3
# Clean networks kept for setting thresholds have 5.1 at most; another attack's way gave 7.0 (docs/scan.md).
_OPEN = 8.0


@dataclass(frozen=True)
class OneWay:
    """An ordered pair of classes.

    Attributes:
        source: From this class.
        target: To this one.
        score: How much shorter the way is than the way back, in deviations of all pairs.
    """

    source: int
    target: int
    score: float


def is_open(way: OneWay) -> bool:
    """Whether no clean network has such a way."""
    return way.score >= _OPEN


def one_ways(space: LatentSpace | None) -> tuple[OneWay, ...]:
    """The pairs with the highest scores, the highest first.

    Args:
        space: The last layer on clean images; pairs of classes with fewer than ten images are left out.
    """
    if space is None or not MINIMUM_CLASSES <= len(space.rows) <= _MOST_CLASSES:
        return ()
    scores = _scores(_pair_distances(space))
    order = np.argsort(-np.nan_to_num(scores, nan=-np.inf), axis=None, kind="stable")[:_SHOWN]
    pairs = [(int(cell // len(scores)), int(cell % len(scores))) for cell in order]
    return tuple(OneWay(s, t, float(scores[s, t])) for s, t in pairs if np.isfinite(scores[s, t]))


def _pair_distances(space: LatentSpace) -> NDArray[np.float64]:
    """``(K, K)`` by source and target; NaN on the diagonal and where a class has too few images."""
    classes = len(space.rows)
    distances = np.full((classes, classes), np.nan)
    for source in np.flatnonzero(np.bincount(space.labels, minlength=classes) >= _FEWEST_IMAGES):
        for target in np.delete(np.arange(classes), source):
            distances[source, target] = space.shift(space.labels == source, int(target))
    return np.maximum(distances, _SMALLEST * np.nanmedian(distances)) if np.isfinite(distances).any() else distances


def _scores(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    known = np.isfinite(distances).sum(axis=1) >= MINIMUM_CLASSES - 1
    scores = np.full_like(distances, np.nan)
    if known.sum() < MINIMUM_CLASSES:
        return scores
    logs = np.log(distances[np.ix_(known, known)])
    for _ in range(_ROUNDS):
        logs -= np.nanmedian(logs, axis=1, keepdims=True)
        logs -= np.nanmedian(logs, axis=0, keepdims=True)
    apart = logs.T - logs
    spread = max(robust_deviation(apart[np.isfinite(apart)]), 1e-6)
    scores[np.ix_(known, known)] = apart / spread
    return scores
