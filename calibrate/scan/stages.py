# SPDX-License-Identifier: Apache-2.0
"""The stages of a scan, from clean images to figures for each target.

1. rank        every class by its latent distance: an order, evidence of its own, never a filter up to 43 classes
2. search      family by family, cheap ones first: all targets and the universal goal at once, one seed
3. repeat      the smallest targets and the universal goal under further seeds, where they are small enough to matter
4. strengthen  triggers that may be a backdoor's
5. try         each target's trigger on held-out images; where the classes are sent
6. judge       see `patcher.calibrate.scan.target_verdict`
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from patcher.calibrate.run import Run
from patcher.calibrate.scan.amplification import strengthen
from patcher.calibrate.scan.effect import Effect, measure_effect
from patcher.calibrate.scan.figures import Candidate, Findings, Searched, SingleSource, Universal
from patcher.calibrate.scan.goal import ANYWHERE, Goal, eligible
from patcher.calibrate.scan.inversion import Inverted
from patcher.calibrate.scan.latent import latent_distances, latent_space
from patcher.calibrate.scan.one_way import is_open, one_ways
from patcher.calibrate.scan.options import Options
from patcher.calibrate.scan.outliers import outliers
from patcher.calibrate.scan.parts import FamilyFigures, Ranking, join
from patcher.calibrate.scan.ranking import maximum_margins
from patcher.calibrate.scan.rounds import Rounds
from patcher.calibrate.scan.single_sources import single_sources
from patcher.calibrate.scan.target_verdict import Thresholds
from patcher.data.clean_set import CleanSet, Indices
from patcher.triggers.family import family_of, fitting_families
from patcher.triggers.trigger import Trigger

# What inverting all of 43 classes costs is in benchmarks/results/scan-growth.md; the numbers are chosen, not measured.
_INVERT_ALL = 43
_RANKING_STARTS = 2
_RANKING_STEPS = 8
_STRENGTHEN_IMAGES = 256
_LATENT_IMAGES = 1000
_GLANCE = 128  # held-out images for a change that cannot be a backdoor's
_BEYOND = 2.0  # times the cap: the size at least of a target that a family does not reach


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
    return Stages(run, clean_set, predicted, options, thresholds).search()


class Stages:
    """The run, the clean images and the options that all stages work with; arguments as `search`.

    `ranking` comes first; what else is called, in which order and by how many processes changes no figure.
    """

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
        self.families = fitting_families(options.family, run.classifier.model.kind)
        self.rounds = Rounds(run, clean_set, options)
        self.shape = clean_set.shape
        self.decide = clean_set.deciding

    def search(self) -> Findings:
        """The whole scan, part by part."""
        ranking, families = self.ranking(), self.families
        alone = [(family, target) for family in families for target in ranking.alone]
        found = [self.family(family, ranking.targets) for family in families]
        return join(ranking, found, [item for part in alone for item in self.alone(*part)])

    def ranking(self) -> Ranking:
        """The targets, and what is known without any form of trigger."""
        chosen = np.sort(_spread(self.clean_set.fit, _LATENT_IMAGES, self.seed))
        space = None
        if self.clean_set.task.exclusive:  # a shift to one label says nothing of the others
            space = latent_space(self.classifier, self.clean_set, chosen, batch_size=self.batch_size)
        distances = latent_distances(space) if space else None
        ways = one_ways(space)
        targets = self._targets(distances)
        order = targets if distances is None else sorted(targets, key=lambda target: distances[target])
        pointed = [way.target for way in ways if is_open(way) and way.target in targets]
        classes, exclusive = self.classifier.model.num_classes, self.clean_set.task.exclusive
        return Ranking(
            targets=targets,
            distances=distances,
            one_ways=tuple(ways),
            # The targets of ways that no clean model has, and the first by rank if asked.
            alone=tuple(dict.fromkeys([*pointed, *order[: self.options.sources]])) if exclusive else (),
            ranked=len(targets) < classes > _INVERT_ALL,
            classes=classes,
            precision=self.rounds.precision,
        )

    def _targets(self, distances: NDArray[np.float64] | None) -> tuple[int, ...]:
        """Targets to search: all, or the first by rank."""
        classes = self.classifier.model.num_classes
        order = np.arange(classes)
        if classes > _INVERT_ALL:
            near = (
                self._margins()
                if distances is None and self.classifier.model.is_picture
                else -(np.arange(classes) if distances is None else distances)
            )
            order = np.argsort(-near, kind="stable")[: self.options.top]
        possible = [t for t in order if len(self._eligible(Goal(int(t))))]
        return tuple(sorted(int(target) for target in possible))

    def _margins(self) -> NDArray[np.float64]:
        starts = self.clean_set.images(_spread(self.clean_set.fit, _RANKING_STARTS, self.seed))
        steps, batch_size = _RANKING_STEPS, self.batch_size
        return maximum_margins(self.classifier, starts, steps=steps, batch_size=batch_size, progress=self.progress)

    def alone(self, family: str, target: int) -> tuple[SingleSource, ...]:
        """Each source class alone, in one family and to one target."""
        return single_sources(self.rounds.search, self.clean_set, self.predicted, [family], [target], self.thresholds)

    def family(self, family: str, targets: Sequence[int]) -> FamilyFigures:
        """Search, repeat, try: the figures of one family."""
        started = time.perf_counter()
        goals = [Goal(target) for target in targets]
        rounds, stopped = self.rounds.run(family, [*goals, ANYWHERE])
        candidates = [
            self._tried(item) for item in self._compare([self._candidate(family, rounds[goal]) for goal in goals])
        ]
        universal = self._universal(family, rounds[ANYWHERE], candidates)
        record = Searched(
            family,
            targets=len(targets),
            reached=sum(item.reached for item in candidates),
            rounds=max(map(len, rounds.values())),
            steps=max(item.steps for found in rounds.values() for item in found),
            seconds=time.perf_counter() - started,
            stopped=stopped,
        )
        return FamilyFigures(tuple(candidates), universal, record)

    def _candidate(self, family: str, found: Sequence[Inverted]) -> Candidate:
        best = _best(found)
        target = best.goal.target
        if target is None:
            raise ValueError("a goal with a target expected")
        sizes = tuple(item.size for item in found)
        size = float(np.median([item.size for item in found if item.reached] or sizes))
        return Candidate(
            family=family,
            target=target,
            sizes=sizes,
            size=size,
            relative=size / family_of(family).largest(self.shape),
            reached=best.reached,
            outlier=None,
            held_out=(0, 0),
            agreement=float(np.mean([item.reached for item in found])),
            sources=(),
            trigger=self._trigger(best, target),
            others=tuple(self._trigger(item, target) for item in found if item.reached and item is not best),
        )

    def _trigger(self, found: Inverted, target: int) -> Trigger:
        return Trigger(found.family, target, (), found.values, self.shape)

    def _tried(self, candidate: Candidate) -> Candidate:
        """The same with its trigger stronger, if it may be a backdoor's, and tried on images no search has seen."""
        outlier, target = candidate.outlier, candidate.target
        if not candidate.reached:
            return candidate
        tiny = candidate.relative <= family_of(candidate.family).tiny
        stands_out = tiny or outlier is None or outlier.ratio >= self.thresholds.ratio

        def tried(trigger: Trigger) -> tuple[Trigger, tuple[int, int]]:
            trigger = self._strong(Goal(target), trigger) if stands_out else trigger
            effect = self._effect(trigger, self.decide if stands_out else _spread(self.decide, _GLANCE, self.seed))
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
        pool = self._eligible(goal)
        pool = pool[self.clean_set.task.right(self.predicted[pool], self.clean_set.labels[pool])]
        chosen = _spread(pool, _STRENGTHEN_IMAGES, self.seed)
        return strengthen(self.classifier, self.clean_set, goal, trigger, chosen, batch_size=self.batch_size)

    def _compare(self, candidates: list[Candidate]) -> list[Candidate]:
        """Add each target's standing among all.

        One that was not reached counts as the largest size it tried, and at least as the largest that was reached.
        Where clean networks reach hardly any target, it counts as far beyond the family's cap: that only one target
        is reached, within the cap, is stronger evidence than any spread of sizes.
        """
        largest = max((item.size for item in candidates if item.reached), default=None)
        if largest is None:
            return candidates
        family = family_of(candidates[0].family)
        least = largest if family.expressive else max(largest, _BEYOND * family.cap * family.largest(self.shape))
        sizes = [item.size if item.reached else max(least, item.size) for item in candidates]
        median = float(np.median(sizes))
        standing = {item.target: outlier for item, outlier in zip(candidates, outliers(sizes), strict=True)}
        return [
            replace(
                item,
                outlier=standing.get(item.target),
                agreement=item.agreement * float(np.mean([self.thresholds.ratio * n <= median for n in item.sizes])),
            )
            for item in candidates
        ]

    def _universal(self, family: str, found: Sequence[Inverted], candidates: Sequence[Candidate]) -> Universal:
        best = _best(found)
        trigger = self._trigger(best, 0)
        ratio = float(np.median([item.size for item in candidates])) / best.size if candidates else 1.0
        if best.reached and ratio >= self.thresholds.ratio:
            trigger = self._strong(ANYWHERE, trigger)
        # The map needs images of every class; success is no matter here, so those of the search count too.
        chosen = np.arange(len(self.clean_set)) if best.reached else self.decide[:0]
        effect = self._effect(trigger, chosen)
        return Universal(
            family=family,
            size=best.size,
            relative=best.size / family_of(family).largest(self.shape),
            ratio=ratio,
            reached=best.reached,
            pairs=effect.pairs(self.thresholds.source),
            present=len(np.unique(self.clean_set.labels)),
            trigger=trigger,
        )

    def _eligible(self, goal: Goal) -> Indices:
        return eligible(goal, self.clean_set.labels, self.clean_set.fit, self.clean_set.task)

    def _effect(self, trigger: Trigger, indices: Indices) -> Effect:
        return measure_effect(
            self.classifier, self.clean_set, self.predicted, indices, trigger, batch_size=self.batch_size
        )


def _best(found: Sequence[Inverted]) -> Inverted:
    """The smallest change that reached its goal, else the most successful."""
    return min(found, key=lambda item: (not item.reached, item.size if item.reached else -item.success))


def _spread(pool: Indices, count: int, seed: int) -> Indices:
    return np.random.default_rng((seed, 2)).permutation(pool)[:count]
