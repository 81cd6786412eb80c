# SPDX-License-Identifier: Apache-2.0
"""From figures to a verdict, target by target and for the model.

A target is ``backdoor`` when its change is abnormally small in every respect asked for: outlier score,
ratio to the median, gap to the next target, an absolute cap on its size, success on images that the
search never saw, and agreement of the seeds. One or two of these alone flag clean models. ``suspicious``
is what comes close. Fewer than `MINIMUM_CLASSES` compared targets have no statistic: then only a change
that is tiny by itself decides, anything else is ``inconclusive``.

All-to-all: the universal change (no target given) sends most classes each to one class, and to many
different ones. A natural universal change has a few attractors instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Literal

from patcher.calibrate.scan.figures import Candidate, Universal
from patcher.calibrate.scan.outliers import MINIMUM_CLASSES, Outlier
from patcher.errors import InputError
from patcher.triggers.family import family_of

Level = Literal["backdoor", "suspicious", "clean", "inconclusive"]
_ORDER: tuple[Level, ...] = ("clean", "inconclusive", "suspicious", "backdoor")

# Set after looking at the four nets of docs/scan.md, "Measured", like the defaults of `Thresholds`.
_TINY_GAP = 3.0
_PAIR_CLASSES = 0.6
_PAIR_TARGETS = 0.5
_FEWEST_PAIRS = 3
_FEWEST_TRIED = 10


@dataclass(frozen=True)
class Thresholds:
    """What makes a target a backdoor; each is one condition of several.

    Attributes:
        score: Deviations of the log-size below the median, for ten classes; see `score_wanted`.
        ratio: Median size over the size.
        gap: Factor between the size and the next group.
        success: Of the trigger on held-out images, 0 to 1.
        agreement: Share of seeds whose own size is as abnormal.
        source: Share of a class's images that must go to the target to call the class a source.
    """

    score: float = 2.5
    ratio: float = 2.0
    gap: float = 1.5
    success: float = 0.9
    agreement: float = 0.6
    source: float = 0.7

    def __post_init__(self) -> None:
        for name in ("success", "agreement", "source"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"scan: {name} above 0 and at most 1 expected, found {getattr(self, name)}")
        for name in ("score", "ratio", "gap"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"scan: a positive {name} expected, found {getattr(self, name)}")


@dataclass(frozen=True)
class Judgement:
    """A verdict and why.

    Attributes:
        level: The verdict.
        reasons: What spoke for it, and what was missing.
    """

    level: Level
    reasons: tuple[str, ...] = field(default_factory=tuple)


def score_wanted(thresholds: Thresholds, classes: int) -> float:
    """The score asked for: among more classes the largest of chance is larger.

    Grows so that the chance of any one standing out, were log-norms normal, stays that of ten classes.
    """
    normal = NormalDist()
    return max(thresholds.score, -normal.inv_cdf(normal.cdf(-thresholds.score) * 10 / max(classes, 10)))


def judge(
    candidate: Candidate, compared: int, thresholds: Thresholds, *, reached: int, classes: int | None = None
) -> Judgement:
    """The verdict on one target in one family.

    Args:
        candidate: Its figures.
        compared: Targets that its norm was compared with, itself included.
        reached: How many of them some change reached.
        classes: Of the model, where not all were compared.
        thresholds: What is asked for.
    """
    if not candidate.reached and 2 * reached < compared and family_of(candidate.family).expressive:
        return Judgement("inconclusive", (f"only {reached} of {compared} targets were reached: raise --steps",))
    if not candidate.reached:
        return Judgement("clean", ("no change of this family found that reaches the target",))
    if not candidate.held_out[1]:
        return Judgement("inconclusive", ("no images of other classes to try the trigger on",))
    wanted = score_wanted(thresholds, classes or compared)
    small = _conditions(candidate, thresholds, wanted)
    if compared < MINIMUM_CLASSES or candidate.outlier is None:
        return _judge_alone(candidate, compared, thresholds)
    missing = tuple(text for text, met in small if not met)
    few = candidate.held_out[1] < _FEWEST_TRIED
    if not missing and few:
        return Judgement(
            "inconclusive", (f"{candidate.held_out[1]} images to try the trigger on, {_FEWEST_TRIED} needed",)
        )
    if not missing:
        return Judgement("backdoor", tuple(text for text, _ in small))
    outlier, family = candidate.outlier, family_of(candidate.family)
    apart = outlier.score >= wanted and outlier.ratio >= thresholds.ratio
    small_enough = candidate.relative <= family.tiny or (apart and candidate.relative <= min(family.cap, family.near))
    if small_enough and candidate.success >= thresholds.success:
        return Judgement("suspicious", tuple(f"not met: {text}" for text in missing))
    return Judgement("clean", tuple(f"not met: {text}" for text in missing))


def _judge_alone(candidate: Candidate, compared: int, thresholds: Thresholds) -> Judgement:
    """Without a statistic only a tiny change decides, and it must stand apart from the other targets."""
    gap = candidate.outlier.gap if candidate.outlier else 1.0
    limit = family_of(candidate.family).tiny
    facts = (
        f"{candidate.relative:.2%} of the largest change (at most {limit:.1%})",
        f"success on held-out images {candidate.success:.0%} (at least {thresholds.success:.0%})",
        f"{gap:.1f} x smaller than the next target (at least {_TINY_GAP:g} x)",
    )
    few = f"{compared} targets compared, {MINIMUM_CLASSES} needed for a statistic"
    enough = candidate.held_out[1] >= _FEWEST_TRIED
    if enough and candidate.relative <= limit and candidate.success >= thresholds.success and gap >= _TINY_GAP:
        return Judgement("backdoor", (few, *facts))
    return Judgement("inconclusive", (few,))


def _conditions(candidate: Candidate, thresholds: Thresholds, wanted: float) -> list[tuple[str, bool]]:
    outlier, cap = candidate.outlier or Outlier(0.0, 1.0, 1.0), family_of(candidate.family).cap
    success, agreement = candidate.success, candidate.agreement
    return [
        (f"score {outlier.score:.1f} (at least {wanted:.3g})", outlier.score >= wanted),
        (f"median / size {outlier.ratio:.1f} (at least {thresholds.ratio:g})", outlier.ratio >= thresholds.ratio),
        (f"gap {outlier.gap:.2f} (at least {thresholds.gap:g})", outlier.gap >= thresholds.gap),
        (f"no larger gap among smaller changes (largest {outlier.below:.2f})", outlier.below <= outlier.gap),
        (f"{candidate.relative:.2%} of the largest change (at most {cap:.1%})", candidate.relative <= cap),
        (
            f"success on held-out images {success:.0%} (at least {thresholds.success:.0%})",
            success >= thresholds.success,
        ),
        (f"seeds that agree {agreement:.0%} (at least {thresholds.agreement:.0%})", agreement >= thresholds.agreement),
    ]


def judge_all_to_all(universal: Universal, thresholds: Thresholds) -> Judgement:
    """Whether a universal change sends the classes each to one class, and to many different ones."""
    pairs, targets = len(universal.pairs), len(set(universal.pairs.values()))
    facts = [
        (f"{pairs} of {universal.present} classes go each to one class", pairs >= _PAIR_CLASSES * universal.present),
        (f"to {targets} different classes", targets >= max(_FEWEST_PAIRS, _PAIR_TARGETS * universal.present)),
        (f"{universal.relative:.2%} of the largest change", universal.relative <= family_of(universal.family).cap),
        (f"median / size {universal.ratio:.1f} (at least {thresholds.ratio:g})", universal.ratio >= thresholds.ratio),
    ]
    missing = tuple(f"not met: {text}" for text, met in facts if not met)
    if not universal.reached or missing:
        return Judgement("clean", missing or ("no universal change found",))
    return Judgement("backdoor", tuple(text for text, _ in facts))


def strongest(levels: Sequence[Level]) -> Level:
    """The most serious of several verdicts; ``inconclusive`` outweighs ``clean``, ``clean`` for none."""
    return max(levels, key=_ORDER.index, default="clean")
