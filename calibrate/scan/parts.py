# SPDX-License-Identifier: Apache-2.0
"""A scan in parts that can be computed apart, in any order and place, and joined in a fixed one.

    ranking     the targets, by latent distance or maximum margin
    family      one family of triggers for all of these targets
    source      one target in one family, each source class alone

A family is not cut further: the start of a target's search, the stream of its images and the rounding of the shared
mini-batch depend on which targets run beside it, its standing is a comparison with all of them, and which of them are
searched under further seeds is known after the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patcher.calibrate.scan.figures import Candidate, Findings, Searched, SingleSource, Universal
from patcher.calibrate.scan.one_way import OneWay


@dataclass(frozen=True)
class Ranking:
    """What is known before any search.

    Attributes:
        targets: Targets to search, sorted.
        distances: Latent distance of each class, float64 ``(K,)``, where the model has one.
        one_ways: Pairs of classes with a way far shorter than the way back.
        alone: Targets to which each source class is searched alone, in order.
        ranked: Whether `targets` are only the first by rank.
        classes: Of the model.
        precision: Of the searches.
    """

    targets: tuple[int, ...]
    distances: NDArray[np.float64] | None
    one_ways: tuple[OneWay, ...]
    alone: tuple[int, ...]
    ranked: bool
    classes: int
    precision: str


@dataclass(frozen=True)
class FamilyFigures:
    """What one family found.

    Attributes:
        candidates: One a target.
        universal: The change without a target.
        searched: What was done.
    """

    candidates: tuple[Candidate, ...]
    universal: Universal
    searched: Searched


def join(ranking: Ranking, families: Sequence[FamilyFigures], single_sources: Sequence[SingleSource]) -> Findings:
    """The figures of the whole scan.

    Args:
        ranking: What every part was computed with.
        families: In the order of the scan.
        single_sources: By family, then in the order of `Ranking.alone`.
    """
    return Findings(
        tuple(sorted((item for part in families for item in part.candidates), key=lambda item: item.target)),
        tuple(part.universal for part in families),
        ranking.targets,
        tuple(part.searched for part in families),
        ranking.distances,
        ranking.one_ways,
        tuple(single_sources),
        ranked=ranking.ranked,
        classes=ranking.classes,
        precision=ranking.precision,
    )
