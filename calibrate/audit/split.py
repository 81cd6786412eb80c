# SPDX-License-Identifier: Apache-2.0
"""NONE's tests, on one number a neuron and image (Wang et al., NeurIPS 2022, Sec. 4).

A neuron is *compromised* for a label when, over the training images that carry this label,

1. its values fall into two groups: the best split explains most of their variance,
       separability = (variance between the groups) / (variance) >= `separability`;
2. the upper group lies on one linear piece: P(value >= 0 | upper group) >= theta.

A best split always exists, also of one group (2 / pi = 0.64 of a normal distribution's variance, 3/4 of a
uniform one's): without the first test every neuron would pass. For two groups on a line Otsu's threshold,
Fisher's discriminant and Jenks' breaks minimise the same thing, the variance within the groups; the split is
exact, over all cuts between sorted values.

An image's score is its distance from the lower (benign) group in standard deviations, the median over the
neurons that are compromised for its label. It is suspected at ``score >= lambda``.

When it does not hold: a trigger that moves no single neuron apart (spread over many, or as varied as the
images) leaves one group; and two kinds of pictures under one label also make two groups, which is why
`patcher.calibrate.audit.confirmation` asks what the label rests on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
_SMALLEST_STD = 1e-6


@dataclass(frozen=True)
class Split:
    """The best split of each row in two; all arrays ``(c,)``.

    Attributes:
        threshold: Largest value of the lower group.
        separability: Share of the variance that the split explains, 0 to 1; 0 where all values are equal.
        mean: Of the lower group.
        std: Of the lower group, population standard deviation.
        on_piece: Share of the upper group that is >= 0.
    """

    threshold: Values
    separability: Values
    mean: Values
    std: Values
    on_piece: Values


def split_in_two(values: NDArray[np.floating]) -> Split:
    """Split each row at the cut with the largest variance between the groups.

    Args:
        values: ``(c, n)``, n at least 2: the values of c neurons over n images.
    """
    ordered = np.sort(values.astype(np.float64), axis=1)
    count = ordered.shape[1]
    low_count = np.arange(1, count)
    centred = ordered - ordered.mean(axis=1, keepdims=True)
    sums, squares = centred.cumsum(axis=1), np.square(centred).cumsum(axis=1)
    # With the overall mean at 0: between = n0 n1 / n^2 (m1 - m0)^2 = sum0^2 / (n0 n1).
    between = np.square(sums[:, :-1]) / (low_count * (count - low_count))
    cut = between.argmax(axis=1)
    rows = np.arange(len(ordered))
    variance = squares[:, -1] / count
    varied = variance > _SMALLEST_STD**2
    low = low_count[cut]
    mean = sums[rows, cut] / low
    deviation = np.sqrt(np.clip(squares[rows, cut] / low - mean**2, 0, None))
    upper = np.arange(count) > cut[:, None]
    return Split(
        threshold=ordered[rows, cut],
        separability=np.where(varied, between[rows, cut] / np.where(varied, variance, 1), 0),
        mean=mean + ordered.mean(axis=1),
        std=deviation,
        on_piece=((ordered >= 0) & upper).sum(axis=1) / upper.sum(axis=1),
    )


def compromised(split: Split, *, separability: float, theta: float) -> NDArray[np.bool_]:
    """Which rows pass both tests: bool ``(c,)``."""
    return (split.separability >= separability) & (split.on_piece >= theta)


def distances(values: NDArray[np.floating], split: Split) -> Values:
    """Distance of ``(c, n)`` values from their row's lower group, in its standard deviations."""
    floor = _SMALLEST_STD + 1e-3 * np.abs(split.mean)
    found: Values = (values - split.mean[:, None]) / np.maximum(split.std, floor)[:, None]
    return found
