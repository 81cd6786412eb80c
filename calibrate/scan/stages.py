# SPDX-License-Identifier: Apache-2.0
"""The stages of a scan, from clean images to figures for each target.

1. rank        only where there are more targets than are inverted; what the order leaves out is named
2. invert      all targets and the universal goal at once, each family on its own, one seed
3. repeat      the smallest targets and the universal goal under further seeds
4. strengthen  triggers that may be a backdoor's
5. try         each target's trigger on held-out images; where the classes are sent
6. judge       see `patcher.calibrate.scan.target_verdict`
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from patcher.calibrate.run import Run
from patcher.calibrate.scan.amplification import strengthen
from patcher.calibrate.scan.effect import Effect, measure_effect
from patcher.calibrate.scan.family import largest_norm
from patcher.calibrate.scan.figures import Candidate, Findings, Universal
from patcher.calibrate.scan.goal import Goal, eligible
from patcher.calibrate.scan.inversion import Budget, Inverted, invert
from patcher.calibrate.scan.options import Options
from patcher.calibrate.scan.outliers import outliers
from patcher.calibrate.scan.ranking import maximum_margins
from patcher.calibrate.scan.target_verdict import Thresholds
from patcher.data.clean_set import CleanSet, Indices
from patcher.triggers.trigger import Family, Trigger

# What inverting all of 43 classes costs is in benchmarks/results/scan-growth.md; the numbers are chosen, not measured.
_INVERT_ALL = 43
_RANKING_STARTS = 2
_RANKING_STEPS = 8
_ANYWHERE = Goal(None)
_STRENGTHEN_IMAGES = 256


def search(
    run: Run, clean_set: CleanSet, predicted: NDArray[np.int64], options: Options, thresholds: Thresholds
) -> Findings:
    """Search for triggers.

    Args:
        run: The model, and the first seed; the others follow it.
        clean_set: Clean images; triggers are searched on *fit* and tried on *held-out*.
        predicted: The model's classes for all clean images, int64 ``(N,)``.
        options: What to search.
        thresholds: For the agreement of seeds and the sources.
    """
    stages = _Stages(run, clean_set, predicted, options, thresholds)
    targets, margins = stages.targets()
    candidates: list[Candidate] = []
    universal: list[Universal] = []
    for family in options.families:
        singles, anywhere = stages.family(family, targets)
        candidates += singles
        universal += anywhere
    return Findings(tuple(sorted(candidates, key=lambda item: item.target)), tuple(universal), targets, margins)


class _Stages:
    """The run, the clean images and the options that all stages work with."""

    def __init__(
        self,
        run: Run,
        clean_set: CleanSet,
        predicted: NDArray[np.int64],
        options: Options,
        thresholds: Thresholds,
    ) -> None:
        self.classifier, self.clean_set, self.predicted = run.classifier, clean_set, predicted
        self.options, self.thresholds, self.seed = options, thresholds, run.seed
        self.batch_size, self.progress = run.batch_size, run.progress
        self.budget = Budget(steps=options.steps, images=options.images)
        self.shape = (clean_set.pixels.shape[1], clean_set.pixels.shape[2], clean_set.pixels.shape[3])
        self.decide = clean_set.deciding

    def targets(self) -> tuple[tuple[int, ...], NDArray[np.float64] | None]:
        """Targets to invert: all, or the first by rank."""
        classes = self.classifier.model.num_classes
        margins, order = None, np.arange(classes)
        if classes > _INVERT_ALL:
            starts = self.clean_set.images(_spread(self.clean_set.fit, _RANKING_STARTS, self.seed))
            margins = maximum_margins(
                self.classifier, starts, steps=_RANKING_STEPS, batch_size=self.batch_size, progress=self.progress
            )
            order = np.argsort(-margins, kind="stable")[: self.options.top]
        possible = [t for t in order if len(eligible(Goal(int(t)), self.clean_set.labels, self.clean_set.fit))]
        return tuple(sorted(int(target) for target in possible)), margins

    def family(self, family: Family, targets: Sequence[int]) -> tuple[list[Candidate], list[Universal]]:
        """Invert, repeat, try: the figures of one family."""
        goals = [Goal(target) for target in targets]
        rounds: dict[Goal, list[Inverted]] = {}
        for number in range(self.options.seeds):
            wanted = [*goals, _ANYWHERE] if number == 0 else [*_smallest(rounds, goals, self.options.repeat), _ANYWHERE]
            found = invert(
                self.classifier,
                self.clean_set,
                wanted,
                family,
                self.budget,
                seed=self.seed + number,
                batch_size=self.batch_size,
                progress=self.progress,
                description=f"{family}, {len(wanted)} goals, seed {self.seed + number}",
            )
            for item in found:
                rounds.setdefault(item.goal, []).append(item)
        candidates = [
            self._tried(item) for item in self._compare([self._candidate(family, rounds[goal]) for goal in goals])
        ]
        return candidates, [self._universal(family, rounds[_ANYWHERE], candidates)]

    def _candidate(self, family: Family, found: Sequence[Inverted]) -> Candidate:
        best = _best(found)
        target = best.goal.target
        if target is None:
            raise ValueError("a goal with a target expected")
        norms = tuple(item.norm for item in found)
        norm = float(np.median([item.norm for item in found if item.reached] or norms))
        return Candidate(
            family=family,
            target=target,
            norms=norms,
            norm=norm,
            relative=norm / largest_norm(family, self.shape),
            reached=best.reached,
            outlier=None,
            held_out=(0, 0),
            agreement=float(np.mean([item.reached for item in found])),
            sources=(),
            trigger=Trigger(family, target, (), best.mask, best.pattern),
            others=tuple(
                Trigger(family, target, (), item.mask, item.pattern)
                for item in found
                if item.reached and item is not best
            ),
        )

    def _tried(self, candidate: Candidate) -> Candidate:
        """The same with its trigger stronger, if it may be a backdoor's, and tried on images no search has seen."""
        outlier, target = candidate.outlier, candidate.target
        stands_out = candidate.reached and (outlier is None or outlier.ratio >= self.thresholds.ratio)

        def tried(trigger: Trigger) -> tuple[Trigger, tuple[int, int]]:
            trigger = self._strong(Goal(target), trigger) if stands_out else trigger
            effect = self._effect(trigger, self.decide)
            return replace(trigger, sources=effect.sources(target, self.thresholds.source)), effect.success(target)

        trigger, held_out = tried(candidate.trigger)
        others = [tried(item) for item in candidate.others] if stands_out else []
        return replace(
            candidate,
            held_out=held_out,
            sources=trigger.sources,
            trigger=trigger,
            others=tuple(item for item, (hits, count) in others if hits >= self.thresholds.success * count > 0),
        )

    def _strong(self, goal: Goal, trigger: Trigger) -> Trigger:
        pool = eligible(goal, self.clean_set.labels, self.clean_set.fit)
        pool = pool[self.predicted[pool] == self.clean_set.labels[pool]]
        chosen = _spread(pool, _STRENGTHEN_IMAGES, self.seed)
        return strengthen(self.classifier, self.clean_set, goal, trigger, chosen, batch_size=self.batch_size)

    def _compare(self, candidates: list[Candidate]) -> list[Candidate]:
        """Add each target's standing among all; one that was not reached counts as the largest norm."""
        largest = max((item.norm for item in candidates if item.reached), default=None)
        if largest is None:
            return candidates
        norms = [item.norm if item.reached else max(largest, item.norm) for item in candidates]
        median = float(np.median(norms))
        standing = {item.target: outlier for item, outlier in zip(candidates, outliers(norms), strict=True)}
        return [
            replace(
                item,
                outlier=standing.get(item.target),
                agreement=item.agreement * float(np.mean([self.thresholds.ratio * n <= median for n in item.norms])),
            )
            for item in candidates
        ]

    def _universal(self, family: Family, found: Sequence[Inverted], candidates: Sequence[Candidate]) -> Universal:
        best = _best(found)
        trigger = Trigger(family, 0, (), best.mask, best.pattern)
        norms = [item.norm for item in candidates if item.reached]
        ratio = float(np.median(norms)) / best.norm if norms else 1.0
        if best.reached and ratio >= self.thresholds.ratio:
            trigger = self._strong(_ANYWHERE, trigger)
        # The map needs images of every class; success is no matter here, so those of the search count too.
        effect = self._effect(trigger, np.arange(len(self.clean_set)))
        return Universal(
            family=family,
            norm=best.norm,
            relative=best.norm / largest_norm(family, self.shape),
            ratio=ratio,
            reached=best.reached,
            pairs=effect.pairs(self.thresholds.source),
            present=len(np.unique(self.clean_set.labels)),
            trigger=trigger,
        )

    def _effect(self, trigger: Trigger, indices: Indices) -> Effect:
        return measure_effect(
            self.classifier, self.clean_set, self.predicted, indices, trigger, batch_size=self.batch_size
        )


def _best(found: Sequence[Inverted]) -> Inverted:
    """The smallest change that reached its goal, else the most successful."""
    return min(found, key=lambda item: (not item.reached, item.norm if item.reached else -item.success))


def _smallest(rounds: dict[Goal, list[Inverted]], goals: Sequence[Goal], count: int) -> list[Goal]:
    """The goals with the smallest changes so far."""
    return sorted(goals, key=lambda goal: (not rounds[goal][0].reached, rounds[goal][0].norm))[:count]


def _spread(pool: Indices, count: int, seed: int) -> Indices:
    return np.random.default_rng((seed, 2)).permutation(pool)[:count]
