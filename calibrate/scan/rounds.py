# SPDX-License-Identifier: Apache-2.0
"""Rounds of search in one family: every goal under one seed, those that matter under further ones.

A search needs directions, not figures: it runs in reduced precision where the device is faster in it and the model
takes it. What it finds is measured in full precision elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from patcher.calibrate.precision import reduced_precision
from patcher.calibrate.run import Run
from patcher.calibrate.scan.enumeration import try_candidates
from patcher.calibrate.scan.goal import ANYWHERE, Goal
from patcher.calibrate.scan.inversion import EARLY_STEPS, Budget, Inverted, invert
from patcher.calibrate.scan.options import Options
from patcher.calibrate.scan.words import insert_words
from patcher.data.clean_set import CleanSet
from patcher.triggers.family import family_of

_TRIED = 64  # clean images on which reduced precision is tried
_WORTH_REPEATING = 1.25  # times the cap of the family


class Rounds:
    """Searches under one seed after another.

    Args:
        run: The model, and the first seed; the others follow it.
        clean_set: Clean images; only *fit* is used.
        options: Steps, images, seeds and precision.

    Attributes:
        precision: Of the searches, ``float32`` or ``bfloat16``.
    """

    def __init__(self, run: Run, clean_set: CleanSet, options: Options) -> None:
        self._run, self._clean_set, self._options = run, clean_set, options
        self._budget = Budget(steps=options.steps, images=options.images)
        self._classifier = run.classifier
        if options.precision == "auto":
            chosen = np.random.default_rng(run.seed).permutation(clean_set.fit)[: min(_TRIED, run.batch_size)]
            self._classifier = reduced_precision(run.classifier, run.classifier.tensor(clean_set.images(chosen)))
        self.precision = str(self._classifier.precision).removeprefix("torch.")

    def run(self, family: str, goals: Sequence[Goal]) -> tuple[dict[Goal, list[Inverted]], str]:
        """All rounds of one family: each goal's results, one a seed, and why the search ended."""
        rounds: dict[Goal, list[Inverted]] = {}
        wanted, number = list(goals), 0
        while wanted and number < self._options.seeds:
            for item in self.search(family, wanted, number):
                rounds.setdefault(item.goal, []).append(item)
            wanted = self._worth_repeating(family, rounds)
            number += 1
        return rounds, self._why_stopped(rounds, number)

    def search(self, family: str, goals: Sequence[Goal], number: int) -> list[Inverted]:
        """One round of a family: by gradients, or through its candidates."""
        kind = family_of(family)
        if "tokens" in kind.kinds:
            search = insert_words
        else:
            search = try_candidates if kind.candidates(self._clean_set.shape) else invert
        return search(
            self._classifier,
            self._clean_set,
            goals,
            family,
            self._budget,
            seed=self._run.seed + number,
            batch_size=self._run.batch_size,
            progress=self._run.progress,
            description=f"{family}, {len(goals)} goals, seed {self._run.seed + number}",
        )

    def _worth_repeating(self, family: str, rounds: dict[Goal, list[Inverted]]) -> list[Goal]:
        """Goals reached with a size near what a planted trigger has: the smallest targets, and the universal one."""
        limit = _WORTH_REPEATING * family_of(family).cap * family_of(family).largest(self._clean_set.shape)
        small = [goal for goal, found in rounds.items() if found[0].reached and found[0].size <= limit]
        targets = sorted((goal for goal in small if goal != ANYWHERE), key=lambda goal: rounds[goal][0].size)
        return targets[: self._options.repeat] + [goal for goal in small if goal == ANYWHERE]

    def _why_stopped(self, rounds: dict[Goal, list[Inverted]], number: int) -> str:
        if not any(found[0].reached for found in rounds.values()):
            steps = max(found[0].steps for found in rounds.values())
            return "no target reached" + (f", none by half after {steps} steps" if steps <= EARLY_STEPS else "")
        if number < self._options.seeds:
            return f"no target within {_WORTH_REPEATING:g} times the cap"
        return "all seeds searched"
