# SPDX-License-Identifier: Apache-2.0
"""The decision of a scan: a verdict for each target and for the model, and the triggers worth keeping."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from patcher.calibrate.scan.figures import Candidate, Findings, Universal
from patcher.calibrate.scan.target_verdict import Judgement, Level, Thresholds, judge, judge_all_to_all, strongest
from patcher.triggers.trigger import Trigger


@dataclass(frozen=True)
class TargetVerdict:
    """The verdict on one target.

    Attributes:
        target: The class.
        level: The more serious of its families' verdicts.
        decisive: The figures of the family that decided.
        kept: The figures of the family whose trigger is kept: the one that stands out most, on one scale.
        judgements: One a family, in the order of `figures`.
        figures: One a family.
        pair_sources: Sources that an all-to-all trigger sends here.
    """

    target: int
    level: Level
    decisive: Candidate
    kept: Candidate
    judgements: tuple[Judgement, ...]
    figures: tuple[Candidate, ...]
    pair_sources: tuple[int, ...] = ()


@dataclass(frozen=True)
class Decision:
    """The outcome of a scan.

    Attributes:
        level: Of the model: the most serious of all.
        mode: ``all-to-one``, ``some-to-one`` or ``all-to-all`` for a backdoor, else ``None``.
        targets: One a target that was inverted, by class.
        all_to_all: One a family, in the order of the findings' universal changes.
        pairs: Source to target of an all-to-all backdoor.
        triggers: For BNA, NFT and the gate: of every target with the model's own verdict, if that is ``backdoor``
            or ``suspicious``; those of further seeds behind the smallest one.
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
    targets = [_target_verdict(findings, target, thresholds, pairs) for target in findings.inverted]
    level = strongest([item.level for item in targets] + [item.level for item in mapped])
    if not targets:
        level = "inconclusive"
    triggers = _triggers(targets, everywhere, level)
    mode = _mode(targets, pairs, thresholds) if level == "backdoor" else None
    return Decision(level, mode, tuple(targets), tuple(mapped), pairs, triggers, _reasons(targets, pairs, level, names))


def _target_verdict(findings: Findings, target: int, thresholds: Thresholds, pairs: dict[int, int]) -> TargetVerdict:
    figures = tuple(item for item in findings.candidates if item.target == target)
    judgements = tuple(_judged(findings, item, thresholds) for item in figures)
    level = strongest([item.level for item in judgements])
    deciding = [item for item, judged in zip(figures, judgements, strict=True) if judged.level == level]
    decisive = max(deciding, key=lambda item: item.outlier.score if item.outlier else 0.0)
    working = [item for item in figures if item.reached and item.success >= thresholds.success]
    kept = max(working, key=_prominence, default=decisive)
    sources = tuple(source for source, sent in pairs.items() if sent == target)
    return TargetVerdict(target, "backdoor" if sources else level, decisive, kept, judgements, figures, sources)


def _prominence(candidate: Candidate) -> float:
    """How far a change stands out, on one scale: a patch's norm is an area, that of a difference the root of one."""
    ratio = candidate.outlier.ratio if candidate.outlier else 1.0
    return ratio if candidate.family == "patch" else ratio**2


def _judged(findings: Findings, candidate: Candidate, thresholds: Thresholds) -> Judgement:
    """The verdict of one family, beside all targets that were searched in it."""
    peers = [item.reached for item in findings.candidates if item.family == candidate.family]
    classes = None if findings.margins is None else len(findings.margins)
    return judge(candidate, len(peers), thresholds, reached=sum(peers), classes=classes)


def _triggers(targets: Sequence[TargetVerdict], everywhere: Universal | None, level: Level) -> tuple[Trigger, ...]:
    if level not in ("backdoor", "suspicious"):
        return ()
    kept: list[Trigger] = []
    for item in targets:
        if item.pair_sources and everywhere:
            kept.append(replace(everywhere.trigger, target=item.target, sources=item.pair_sources))
        elif item.level == level:
            kept += [item.kept.trigger, *item.kept.others]
    return tuple(kept)


def _mode(targets: Sequence[TargetVerdict], pairs: dict[int, int], thresholds: Thresholds) -> str:
    if pairs:
        return "all-to-all"
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
            f"{item.level}: class {item.target} ({names[item.target]}), {item.decisive.family} of norm "
            f"{item.decisive.norm:.3g}; trigger: {item.kept.family}, {item.kept.success:.0%} of held-out images"
            for item in flagged
        )
    if level == "inconclusive":
        texts = [text for item in targets for judged in item.judgements for text in judged.reasons]
        return tuple(dict.fromkeys(texts))[:1] or ("no target could be examined",)
    return ()
