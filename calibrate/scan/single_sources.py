# SPDX-License-Identifier: Apache-2.0
"""Backdoors of one source class: each source alone, for the few targets that rank first.

A trigger that moves one class only stays hidden where all classes are searched together: its success there is 1 in
C - 1. Here the smallest change is sought from each source class to the target. The sizes of one target's sources are
compared with one another, as those of the targets are elsewhere: from a class that looks like the target the way is
short by nature, so an outlier here makes a target `suspicious`, no more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from patcher.calibrate.scan.figures import SingleSource
from patcher.calibrate.scan.goal import Goal, eligible
from patcher.calibrate.scan.inversion import Inverted
from patcher.calibrate.scan.outliers import MINIMUM_CLASSES, outliers
from patcher.calibrate.scan.target_verdict import Thresholds
from patcher.data.clean_set import CleanSet
from patcher.triggers.family import family_of
from patcher.triggers.trigger import Trigger

Search = Callable[[str, Sequence[Goal], int], list[Inverted]]
_FEWEST_IMAGES = 10


def single_sources(
    search: Search,
    clean_set: CleanSet,
    predicted: NDArray[np.int64],
    families: Sequence[str],
    targets: Sequence[int],
    thresholds: Thresholds,
) -> tuple[SingleSource, ...]:
    """Sources from which one of `targets` is abnormally near.

    Args:
        search: Family, goals and round to one result a goal.
        clean_set: Clean images.
        predicted: The model's classes for all clean images, int64 ``(N,)``.
        families: Names of the families to search.
        targets: The targets that rank first.
        thresholds: Score, ratio and gap asked for.
    """
    right = clean_set.fit[predicted[clean_set.fit] == clean_set.labels[clean_set.fit]]
    counts = np.bincount(clean_set.labels[right], minlength=len(clean_set.class_names))
    sources = [int(source) for source in np.flatnonzero(counts >= _FEWEST_IMAGES)]
    found: list[SingleSource] = []
    for family in families:
        for target in targets:
            goals = [Goal(target, source) for source in sources if source != target]
            goals = [goal for goal in goals if len(eligible(goal, clean_set.labels, clean_set.fit))]
            if len(goals) >= MINIMUM_CLASSES:
                found += _outstanding(search(family, goals, 0), clean_set, thresholds)
    return tuple(found)


def _outstanding(results: Sequence[Inverted], clean_set: CleanSet, thresholds: Thresholds) -> list[SingleSource]:
    """Those of one target and family whose size is an outlier within the family's limit."""
    family = family_of(results[0].family)
    largest = max((item.size for item in results if item.reached), default=None)
    if largest is None:
        return []
    sizes = [item.size if item.reached else max(largest, item.size) for item in results]
    limit = family.cap * family.largest(clean_set.shape)
    kept = []
    for item, size, standing in zip(results, sizes, outliers(sizes), strict=True):
        source, target = item.goal.source, item.goal.target
        small = item.reached and size <= limit and standing.score >= thresholds.score
        apart = standing.ratio >= thresholds.ratio and standing.gap >= max(thresholds.gap, standing.below)
        if small and apart and source is not None and target is not None:
            trigger = Trigger(family.name, target, (source,), item.values, clean_set.shape)
            kept.append(SingleSource(family.name, source, target, size, standing.ratio, trigger))
    return kept
