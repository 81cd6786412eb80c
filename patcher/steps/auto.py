# SPDX-License-Identifier: Apache-2.0
"""``--method auto``: which methods, in the light of what a scan found, and which result is the best.

    found       masks (nft) and a second pass (bna) that undo the triggers found; the one that is worth more; then
                the same under bounds (unit), where accuracy allows; bounds alone where neither holds the accuracy
                condition
    not found   bounds alone; where nothing speaks for a backdoor, within a much smaller loss of accuracy
    nothing     the model unchanged, where no correction is worth what it costs

A candidate is measured on all clean images, and on held-out ones with the triggers that the scan found, never with
any other. It holds the accuracy condition where it does so on held-out images, as a method alone has to, and on all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from patcher.calibrate.stack import AUTO, read_stack, stacks_of
from patcher.data.arrays import Arrays
from patcher.data.preprocess import Preprocess
from patcher.errors import CalibrationError, NotApplicableError, UnsupportedGraphError
from patcher.files import Source
from patcher.model.model import Model
from patcher.patch import Correction
from patcher.progress import Progress
from patcher.settings import Settings, refuse_unknown, split_options
from patcher.steps.batches import fitting_options
from patcher.steps.choice import Candidate, Choice, Outcome, measure_outcome, read_evidence
from patcher.steps.fit import (
    Fitted,
    Ground,
    Stage,
    fit_nothing,
    fit_stack,
    read_ground,
    read_options,
    refuse_hardened,
    relevant,
)

EPSILON = 0.01  # half of a single method's default: what several share
_UNSUSPECTED = 0.2  # share of it that bounds may cost where nothing was found, or on top of a repair
_UNDER_BOUNDS = {"nft": "nft+unit", "bna": "unit+bna"}


def check_options(options: Mapping[str, Any]) -> Settings:
    """Shared settings, once every option is known to be one that ``auto`` can use, and in its range.

    Raises:
        InputError: One is not.
    """
    settings, own = split_options(options)
    refuse_unknown(f"method {AUTO}", own, frozenset().union(*(stack.known for stack in stacks_of(AUTO))))
    for stack in stacks_of(AUTO):
        read_options(stack, relevant(stack, options))
    return settings


def fit_auto(
    model: Model,
    clean_dir: Source | None,
    preprocess: Preprocess | Arrays,
    progress: Progress | None,
    options: Mapping[str, Any],
) -> Fitted:
    """Try what the evidence of a scan justifies, and give the best.

    Args:
        model: The classifier.
        clean_dir: Clean images.
        preprocess: How pictures become the model's input.
        progress: Told of each step.
        options: As for `fit_patch`, of every method that ``auto`` may choose; ``scan`` or ``triggers`` among them.

    Returns:
        The patch with how it was chosen; without corrections where the model stays as it is.

    Raises:
        PatcherError: As `patcher.harden`.
    """
    settings = check_options(options)
    refuse_hardened(model, settings)
    stack = read_stack("unit")
    ground = read_ground(model, stack, clean_dir, stack.options({}), preprocess, settings, progress)
    trial = _Trial(ground, options)
    return trial.repair() if trial.evidence.triggers else trial.bound()


class _Trial:
    """Candidates, as they are tried.

    Args:
        ground: What they are fitted on.
        options: What was asked for.
    """

    def __init__(self, ground: Ground, options: Mapping[str, Any]) -> None:
        self._ground, self._options = ground, {"epsilon": EPSILON, **options}
        self._clean_set = ground.data.prepared.clean_set
        self.evidence = read_evidence(options, ground.run.classifier.model, self._clean_set)
        self._before = self._measured(())
        self._candidates: dict[str, Candidate] = {}
        self._fitted: dict[str, Fitted] = {}

    def repair(self) -> Fitted:
        """Undo the triggers that were found."""
        masks = "nft+unit" if self._options.get("flag") else "nft"
        for name in (masks, "bna"):
            self._try(name)
        if not self._fitted:
            return self.bound()
        best = self._best()
        if not self._candidates[best].satisfied:
            self._try("unit")
            best = self._best()
        above = _UNDER_BOUNDS.get(best, best)
        if above not in self._candidates and self._candidates[best].satisfied:
            self._try(above, self._fitted[best].stages if above.startswith(best) else ())
            best = above if self._as_good(above, best) else best
        return self._chosen(best)

    def bound(self) -> Fitted:
        """Bounds, whatever the trigger; where they cost more than what speaks for them, nothing."""
        unsuspected = self.evidence.level == "clean"
        if unsuspected and not self._options.get("flag"):  # a flag leaves the answers to usual images alone
            self._options["epsilon"] *= _UNSUSPECTED
        self._try("unit")
        if self._fitted and (self._candidates["unit"].satisfied or not unsuspected):
            return self._chosen("unit")
        if not unsuspected:
            raise NotApplicableError(f"a backdoor is suspected, and nothing applies: {self._candidates['unit'].reason}")
        return replace(fit_nothing(self._ground, read_stack("unit")), choice=self._choice(""))

    def _try(self, name: str, done: Sequence[Stage] = ()) -> None:
        stack, given = read_stack(name), self._options
        if stack.names[-1] != "unit":
            given = {key: value for key, value in given.items() if key != "flag"}
        own = read_options(stack, relevant(stack, given))[1]
        ground = replace(self._ground, run=replace(self._ground.run, progress=self._told(name)))
        try:
            fitted = fit_stack(ground, stack, [fitting_options(part, given, ground.fits) for part in own], done)
        except (NotApplicableError, UnsupportedGraphError, CalibrationError) as error:
            self._candidates[name] = Candidate(name, reason=str(error))
            return
        self._fitted[name] = fitted
        outcome = self._measured(fitted.patch.corrections)
        from patcher.calibrate.best_state import holds

        lost = self._before.accuracy.value - outcome.accuracy.value
        satisfied = fitted.calibration.satisfied and holds(lost, self._options["epsilon"])
        self._candidates[name] = Candidate(name, outcome, satisfied)

    def _told(self, name: str) -> Progress:
        """Progress that says which candidate it is of."""
        tell, number = self._ground.run.progress, len(self._candidates) + 1
        return lambda what, done, total: tell(f"candidate {number} ({name}), {what}", done, total)

    def _best(self) -> str:
        """The candidate that is worth most, of those that hold the accuracy condition; the earlier of equals.

        Where none holds it on all images, of those that hold it on held-out ones.
        """

        def rank(name: str) -> tuple[bool, bool, float]:
            found = self._candidates[name]
            held_out = self._fitted[name].calibration.satisfied
            return found.satisfied, held_out, found.outcome.worth if found.outcome else 0.0

        return max(self._fitted, key=rank)

    def _as_good(self, name: str, other: str) -> bool:
        """Whether a candidate undoes the found triggers as well as another, at hardly any loss of accuracy.

        Bounds over a repair that works are a precaution, and may cost what they may where nothing was found.
        """
        found, wanted, epsilon = self._candidates[name], self._candidates[other].outcome, self._options["epsilon"]
        if not found.satisfied or not found.outcome or not wanted:
            return False
        cheap = found.outcome.accuracy.value >= wanted.accuracy.value - _UNSUSPECTED * epsilon
        return bool(cheap and found.outcome.worth >= wanted.worth - 2 * epsilon)

    def _chosen(self, name: str) -> Fitted:
        return replace(self._fitted[name], choice=self._choice(name))

    def _choice(self, name: str) -> Choice:
        candidates = tuple(self._candidates.values())
        return Choice(self.evidence, self._before, candidates, name, self._options["epsilon"])

    def _measured(self, corrections: Sequence[Correction]) -> Outcome:
        return measure_outcome(self._ground.run, corrections, self._clean_set, self.evidence.triggers)
