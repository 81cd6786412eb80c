# SPDX-License-Identifier: Apache-2.0
"""The decision of a scan: a verdict for each target and for the model, and the triggers worth keeping."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from patcher.calibrate.scan.figures import Candidate, Findings, SingleSource, Universal
from patcher.calibrate.scan.latent import latent_scores
from patcher.calibrate.scan.one_way import is_open
from patcher.calibrate.scan.outliers import MINIMUM_CLASSES
from patcher.calibrate.scan.target_verdict import Judgement, Level, Thresholds, judge, judge_all_to_all, strongest
from patcher.triggers.family import family_of
from patcher.triggers.trigger import Trigger

# Clean networks kept for setting thresholds have scores up to 2.5 and gaps up to 1.09 (docs/scan.md).
_LATENT_SCORE = 3.5
_LATENT_GAP = 1.15


@dataclass(frozen=True)
class TargetVerdict:
    """The verdict on one target.

    Attributes:
        target: The class.
        level: The more serious of its families' verdicts.
        decisive: The figures of the family that decided.
        kept: The figures of the family whose trigger comes first: the one that stands out most, on one scale.
        judgements: One a family, in the order of `figures`.
        figures: One a family.
        pair_sources: Sources that an all-to-all trigger sends here.
        singles: Single sources from which it is abnormally near, where they say more than the families do.
        latent: What the last features say, where they say more than all of these.
    """

    target: int
    level: Level
    decisive: Candidate
    kept: Candidate
    judgements: tuple[Judgement, ...]
    figures: tuple[Candidate, ...]
    pair_sources: tuple[int, ...] = ()
    singles: tuple[SingleSource, ...] = ()
    latent: str = ""

    @property
    def triggers(self) -> tuple[Trigger, ...]:
        """Triggers of every family with the target's own verdict, of all seeds, that of `kept` first.

        Those of single sources alone where these decided; none where only the last features did.
        """
        if self.singles or self.latent:
            return tuple(item.trigger for item in self.singles)
        agreeing = [
            item
            for item, judged in zip(self.figures, self.judgements, strict=True)
            if judged.level == self.level and item is not self.kept
        ]
        return tuple(trigger for item in (self.kept, *agreeing) for trigger in (item.trigger, *item.others))


@dataclass(frozen=True)
class Decision:
    """The outcome of a scan.

    Attributes:
        level: Of the model: the most serious of all.
        mode: ``all-to-one``, ``some-to-one``, ``one-to-one`` or ``all-to-all`` for a backdoor, else ``None``.
        targets: One a target that was inverted, by class.
        all_to_all: One a family, in the order of the findings' universal changes.
        pairs: Source to target of an all-to-all backdoor.
        triggers: For BNA, NFT and the gate: of every target with the model's own verdict, if that is ``backdoor``
            or ``suspicious``; of each, all families that agree.
        reasons: Sentences for people.
    """

    level: Level
    mode: str | None
    targets: tuple[TargetVerdict, ...]
    all_to_all: tuple[Judgement, ...]
    pairs: dict[int, int]
    triggers: tuple[Trigger, ...]
    reasons: tuple[str, ...]


def decide(findings: Findings, thresholds: Thresholds, names: Sequence[str]) -> Decision:
    """Judge the figures of a scan.

    Args:
        findings: The figures.
        thresholds: What is asked for.
        names: Class names.
    """
    mapped = [judge_all_to_all(item, thresholds) for item in findings.universal]
    found = [item for item, judged in zip(findings.universal, mapped, strict=True) if judged.level == "backdoor"]
    everywhere = min(found, key=lambda item: item.relative, default=None)
    pairs = everywhere.pairs if everywhere else {}
    targets = [_target_verdict(findings, target, thresholds, pairs, names) for target in findings.inverted]
    level = strongest([item.level for item in targets] + [item.level for item in mapped])
    if not targets:
        level = "inconclusive"
    mode = _mode(targets, pairs, thresholds) if level == "backdoor" else None
    reasons = _reasons(targets, pairs, level, names)
    return Decision(level, mode, tuple(targets), tuple(mapped), pairs, _triggers(targets, everywhere, level), reasons)


def _too_close(findings: Findings) -> int | None:
    """The class whose latent distance no clean network has; needs enough classes to compare."""
    distances = findings.distances
    if distances is None or len(distances) < MINIMUM_CLASSES:
        return None
    nearest, following = np.argsort(distances, kind="stable")[:2]
    apart = distances[following] / distances[nearest] >= _LATENT_GAP
    return int(nearest) if apart and latent_scores(distances)[nearest] >= _LATENT_SCORE else None


def _target_verdict(
    findings: Findings, target: int, thresholds: Thresholds, pairs: dict[int, int], names: Sequence[str]
) -> TargetVerdict:
    figures = tuple(item for item in findings.candidates if item.target == target)
    judgements = tuple(_judged(findings, item, thresholds) for item in figures)
    level = strongest([item.level for item in judgements])
    deciding = [item for item, judged in zip(figures, judgements, strict=True) if judged.level == level]
    decisive = max(deciding, key=lambda item: item.outlier.score if item.outlier else 0.0)
    working = [item for item in figures if item.reached and item.success >= thresholds.success]
    kept = max(working, key=_prominence, default=decisive)
    sources = tuple(source for source, sent in pairs.items() if sent == target)
    verdict = TargetVerdict(target, "backdoor" if sources else level, decisive, kept, judgements, figures, sources)
    return _second_opinion(findings, verdict, names)


def _second_opinion(findings: Findings, verdict: TargetVerdict, names: Sequence[str]) -> TargetVerdict:
    """The verdict raised by what single sources and the last features say of the target."""
    if verdict.level == "backdoor":
        return verdict
    target = verdict.target
    ways = [way for way in findings.one_ways if way.target == target and is_open(way)]
    singles = tuple(item for item in findings.single_sources if item.target == target)
    confirmed = tuple(item for item in singles if item.source in [way.source for way in ways])
    if confirmed:
        return replace(verdict, level="backdoor", singles=confirmed)
    if singles and verdict.level != "suspicious":
        return replace(verdict, level="suspicious", singles=singles)
    if verdict.level == "suspicious":
        return verdict
    if ways:
        text = f"from class {ways[0].source} ({names[ways[0].source]}) the way is far shorter than the way back"
        return replace(verdict, level="suspicious", latent=text)
    if _too_close(findings) == target:
        return replace(verdict, level="suspicious", latent="far too close: a small shift of the last features gives it")
    return verdict


def _prominence(candidate: Candidate) -> float:
    """How far a change stands out, on one scale: a patch's size is an area, that of a difference the root of one."""
    ratio = candidate.outlier.ratio if candidate.outlier else 1.0
    return float(ratio ** family_of(candidate.family).exponent)


def _judged(findings: Findings, candidate: Candidate, thresholds: Thresholds) -> Judgement:
    """The verdict of one family, beside all targets that were searched in it."""
    peers = [item.reached for item in findings.candidates if item.family == candidate.family]
    classes = findings.classes if findings.ranked else None
    return judge(candidate, len(peers), thresholds, reached=sum(peers), classes=classes)


def _triggers(targets: Sequence[TargetVerdict], everywhere: Universal | None, level: Level) -> tuple[Trigger, ...]:
    if level not in ("backdoor", "suspicious"):
        return ()
    kept: list[Trigger] = []
    for item in targets:
        if item.pair_sources and everywhere:
            kept.append(replace(everywhere.trigger, target=item.target, sources=item.pair_sources))
        elif item.level == level:
            kept += item.triggers
    return tuple(kept)


def _described(candidate: Candidate) -> str:
    family = family_of(candidate.family)
    return f"{candidate.family}: {family.describe(candidate.size, candidate.trigger.shape)}"


def _mode(targets: Sequence[TargetVerdict], pairs: dict[int, int], thresholds: Thresholds) -> str:
    if pairs:
        return "all-to-all"
    if all(item.singles for item in targets if item.level == "backdoor"):
        return "one-to-one"
    flagged = [item.kept for item in targets if item.level == "backdoor"]
    others = max(len(targets) - 1, 1)
    return "all-to-one" if all(len(item.sources) >= thresholds.source * others for item in flagged) else "some-to-one"


def _reasons(
    targets: Sequence[TargetVerdict], pairs: dict[int, int], level: Level, names: Sequence[str]
) -> tuple[str, ...]:
    if pairs:
        return ("all-to-all: " + ", ".join(f"{names[s]} to {names[t]}" for s, t in sorted(pairs.items())),)
    flagged = [item for item in targets if item.level in ("backdoor", "suspicious")]
    if flagged:
        return tuple(
            f"{item.level}: class {item.target} ({names[item.target]}), {_why(item, names)}" for item in flagged
        )
    if level == "inconclusive":
        texts = [text for item in targets for judged in item.judgements for text in judged.reasons]
        return tuple(dict.fromkeys(texts))[:1] or ("no target could be examined",)
    return ()


def _why(verdict: TargetVerdict, names: Sequence[str]) -> str:
    if verdict.latent:
        return f"{verdict.latent}; no family of triggers searched shows how"
    if verdict.singles:
        item = max(verdict.singles, key=lambda item: item.ratio)
        return (
            f"from class {item.source} ({names[item.source]}) alone, {item.family}: "
            f"{family_of(item.family).describe(item.size, item.trigger.shape)}, "
            f"{item.ratio:.1f} x smaller than from other classes"
        )
    return (
        f"{_described(verdict.decisive)}; trigger: {verdict.kept.family}, {verdict.kept.success:.0%} of held-out images"
    )
