# SPDX-License-Identifier: Apache-2.0
"""The figures of a scan: of each target, of the universal change, of the whole."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patcher.calibrate.scan.outliers import Outlier
from patcher.triggers.trigger import Family, Trigger


@dataclass(frozen=True)
class Candidate:
    """The figures of one target in one family.

    Attributes:
        family: How the change is put into pixels.
        target: Where it sends images.
        norms: One norm a seed.
        norm: Their median.
        relative: Norm over that of a change of every pixel by 1.
        reached: Whether any change reached the success wanted on images of the search.
        outlier: Beside the other targets; ``None`` where none was reached.
        held_out: Held-out images that got the target, and how many there were.
        agreement: Share of seeds whose norm is as abnormal, 0 to 1.
        sources: Classes that the trigger sends to the target.
        trigger: The smallest successful change.
        others: Those of the other seeds, as far as they succeed.
    """

    family: Family
    target: int
    norms: tuple[float, ...]
    norm: float
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
        norm: Its size.
        relative: Norm over that of a change of every pixel by 1.
        ratio: Median norm of the single targets over this norm.
        reached: Whether it moved enough images of the search.
        pairs: Source to target, for each class whose images mostly go to one other class.
        present: Classes with images.
        trigger: The change; its target stands for the first pair's.
    """

    family: Family
    norm: float
    relative: float
    ratio: float
    reached: bool
    pairs: dict[int, int]
    present: int
    trigger: Trigger


@dataclass(frozen=True)
class Findings:
    """The figures of a scan.

    Attributes:
        candidates: One a target and family, by target.
        universal: One a family.
        inverted: Targets that were inverted.
        margins: Maximum margin of each class where targets were ranked, float64 ``(K,)``, else ``None``.
    """

    candidates: tuple[Candidate, ...]
    universal: tuple[Universal, ...]
    inverted: tuple[int, ...]
    margins: NDArray[np.float64] | None = None
