# SPDX-License-Identifier: Apache-2.0
"""The figures of a scan: of each target, of the universal change, of the whole."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patcher.calibrate.scan.one_way import OneWay
from patcher.calibrate.scan.outliers import Outlier
from patcher.triggers.trigger import Trigger


@dataclass(frozen=True)
class Candidate:
    """The figures of one target in one family.

    Attributes:
        family: How the change is put into pixels.
        target: Where it sends images.
        sizes: One size a seed, in the family's unit; where a seed did not reach the target, the largest it tried.
        size: Their median.
        relative: Size over the family's largest.
        reached: Whether any change reached the success wanted on images of the search.
        outlier: Beside the other targets; ``None`` where none was reached.
        held_out: Held-out images that got the target, and how many there were.
        agreement: Share of seeds whose size is as abnormal, 0 to 1.
        sources: Classes that the trigger sends to the target.
        trigger: The smallest successful change.
        others: Those of the other seeds, as far as they succeed.
    """

    family: str
    target: int
    sizes: tuple[float, ...]
    size: float
    relative: float
    reached: bool
    outlier: Outlier | None
    held_out: tuple[int, int]
    agreement: float
    sources: tuple[int, ...]
    trigger: Trigger
    others: tuple[Trigger, ...] = ()

    @property
    def success(self) -> float:
        """Share of held-out images that got the target; 0 without images."""
        hits, count = self.held_out
        return hits / count if count else 0.0


@dataclass(frozen=True)
class Universal:
    """What the smallest change without a given target does.

    Attributes:
        family: How the change is put into pixels.
        size: In the family's unit.
        relative: Size over the family's largest.
        ratio: Median size of the single targets over this size.
        reached: Whether it moved enough images of the search.
        pairs: Source to target, for each class whose images mostly go to one other class.
        present: Classes with images.
        trigger: The change; its target stands for the first pair's.
    """

    family: str
    size: float
    relative: float
    ratio: float
    reached: bool
    pairs: dict[int, int]
    present: int
    trigger: Trigger


@dataclass(frozen=True)
class Searched:
    """What was done in one family.

    Attributes:
        family: Its name.
        targets: Targets searched.
        reached: How many of them some change reached.
        rounds: Searches under different seeds.
        steps: Steps (or candidates) of the longest search.
        seconds: Of the clock.
        stopped: Why it ended.
    """

    family: str
    targets: int
    reached: int
    rounds: int
    steps: int
    seconds: float
    stopped: str


@dataclass(frozen=True)
class SingleSource:
    """A source class from which one target is abnormally near.

    Attributes:
        family: Of the change.
        source: The class that it moves.
        target: Where to.
        size: In the family's unit.
        ratio: Median size from the other sources over this size.
        trigger: The change.
    """

    family: str
    source: int
    target: int
    size: float
    ratio: float
    trigger: Trigger


@dataclass(frozen=True)
class Findings:
    """The figures of a scan.

    Attributes:
        candidates: One a target and family, by target.
        universal: One a family.
        inverted: Targets that were searched.
        searched: One a family.
        distances: Latent distance of each class, float64 ``(K,)``, where the model has one; see `latent`.
        one_ways: Pairs of classes with a way far shorter than the way back, the first few; see `one_way`.
        single_sources: Source classes from which a target is abnormally near, where they were searched alone.
        ranked: Whether the targets searched are only the first by rank.
        classes: Of the model.
        precision: Of the searches.
    """

    candidates: tuple[Candidate, ...]
    universal: tuple[Universal, ...]
    inverted: tuple[int, ...]
    searched: tuple[Searched, ...] = ()
    distances: NDArray[np.float64] | None = None
    one_ways: tuple[OneWay, ...] = ()
    single_sources: tuple[SingleSource, ...] = ()
    ranked: bool = False
    classes: int = 0
    precision: str = "float32"
