# SPDX-License-Identifier: Apache-2.0
"""Is a norm abnormally small? Outlier score, ratio to the median and gap over the norms of all targets.

    score_t = (median_u log n_u - log n_t) / max(1.4826 MAD, 0.25)
    ratio_t = median_u n_u / n_t
    gap_t   = the largest n_(j+1) / n_(j) over the ordered norms j >= t of the smaller half
    below_t = the largest n_(j+1) / n_(j) over j < t

Logarithms, because norms are positive and spread by factors. The floor under the spread keeps targets
that happen to be equally hard from turning small differences into outliers; the ratio and the gap are
asked for besides, because a score alone flags one of ten clean targets far too often. A norm with a larger
step below it than above belongs with the ordinary ones: a true trigger makes the spread of the rest look odd.

When it does not hold: fewer than `MINIMUM_CLASSES` targets have no meaningful median deviation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MINIMUM_CLASSES = 8  # chosen, not measured
_NORMAL_CONSISTENCY = 1.4826  # 1 / inverse normal distribution at 3/4: the MAD then estimates the deviation
_SMALLEST_SPREAD = 0.25  # of log-norms; set after looking at the four nets of docs/scan.md, "Measured"


@dataclass(frozen=True)
class Outlier:
    """How one norm stands among all.

    Attributes:
        score: Deviations below the median of the log-norms.
        ratio: Median norm over this one.
        gap: Step to the next group of larger norms, as a factor.
        below: Largest step between smaller norms and up to this one, as a factor.
    """

    score: float
    ratio: float
    gap: float
    below: float = 1.0


def robust_deviation(values: NDArray[np.float64]) -> float:
    """1.4826 times the median absolute deviation of ``(n,)`` values: the standard deviation, were they normal."""
    return _NORMAL_CONSISTENCY * float(np.median(np.abs(values - np.median(values))))


def outliers(norms: Sequence[float]) -> list[Outlier]:
    """Compare positive norms with one another; see the module.

    Raises:
        ValueError: A norm is not positive and finite.
    """
    values = np.asarray(norms, np.float64)
    if not len(values):
        return []
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise ValueError(f"positive finite norms expected, found {list(norms)}")
    logs = np.log(values)
    median = np.median(logs)
    spread = max(robust_deviation(logs), _SMALLEST_SPREAD)
    ordered = np.argsort(logs, kind="stable")
    steps = np.diff(logs[ordered])[: len(values) // 2]
    gaps, belows = np.ones(len(values)), np.ones(len(values))
    for place, index in enumerate(ordered):
        gaps[index] = np.exp(steps[place:].max()) if place < len(steps) else 1.0
        belows[index] = np.exp(steps[:place].max()) if place and len(steps) else 1.0
    return [
        Outlier(float((median - log) / spread), float(np.exp(median - log)), float(gap), float(below))
        for log, gap, below in zip(logs, gaps, belows, strict=True)
    ]
