# SPDX-License-Identifier: Apache-2.0
"""What BNA minimises, measures and keeps for one target; see `patcher.calibrate.bna.method`.

Memory does not grow with the number of images: reference histograms are summed over batches, moments are
streamed, and of each channel at most `_VALUES` values a batch are counted, taken at equal distances.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patcher.calibrate.bna.normalization import SiteRealignment, reestimate
from patcher.calibrate.bna.objective import Objective, answer_divergence
from patcher.calibrate.bna.options import Learned, Options
from patcher.calibrate.run import Run
from patcher.calibrate.statistics import stream_moments
from patcher.calibrate.training import Problem, Steps, fit
from patcher.calibrate.triggered import TriggerSet
from patcher.data.clean_set import CleanSet
from patcher.errors import CalibrationError
from patcher.graph.site import Site
from patcher.triggers.trigger import Trigger

Parts = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]

_REFERENCE_IMAGES = 512


@dataclass(frozen=True)
class Aligned:
    """Theta of one target.

    Attributes:
        target: The class.
        sources: Classes whose triggered images it was fitted on.
        parts: Scale, shift, upper and lower bound by tensor, each of the tensor's rank with a leading 1.
        kept_step: Optimiser step of the kept state; 0 is the re-estimation.
        measured: Shares on held-out images for the kept state.
        curve: One entry a measurement.
    """

    target: int
    sources: tuple[int, ...]
    parts: Mapping[str, Parts]
    kept_step: int
    measured: Mapping[str, float]
    curve: tuple[Mapping[str, float], ...]

    def summary(self) -> dict[str, Any]:
        """Plain JSON values for the report."""
        return {
            "target": self.target,
            "sources": list(self.sources),
            "kept_step": self.kept_step,
            "held_out": dict(self.measured),
        }


def align(
    run: Run, sites: Sequence[Site], clean_set: CleanSet, options: Options, triggers: Sequence[Trigger]
) -> Aligned:
    """Fit Theta of the target that `triggers` share.

    Args:
        run: Of the calibration.
        sites: Where h acts.
        clean_set: Clean images.
        options: Options of BNA.
        triggers: At least one, all of one target.

    Raises:
        CalibrationError: The clean set has no image of their source classes.
    """
    classifier, attack = run.classifier, TriggerSet(triggers, run.classifier.model.num_classes)
    labels = clean_set.labels[clean_set.fit]
    sources = clean_set.fit[np.isin(labels, attack.sources)]
    if not len(sources):
        raise CalibrationError(
            f"no clean image of the source classes {list(attack.sources)} of target {attack.target}; add some"
        )
    rng = np.random.default_rng(run.seed)
    reference = np.sort(rng.permutation(sources)[:_REFERENCE_IMAGES])
    name = f"bna: class {attack.target}"

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        return classifier.batches(clean_set, reference, run.batch_size)

    clean = stream_moments(classifier, sites, batches())
    state = reestimate(
        classifier,
        sites,
        clean,
        lambda: attack.batches(batches()),
        lambda done, total: run.progress(f"{name}, re-estimate", done, total),
    )
    objective = Objective(classifier, sites, state, attack, options)
    objective.set_reference(clean, batches())
    problem = AlignmentFit(run, state, objective, attack, clean_set, options)
    if not options.steps or options.learn == "none":
        problem.check(0)
        return problem.keep()
    kept = clean_set.fit[labels == attack.target]
    fitted = np.sort(np.concatenate([sources, kept])) if options.answer else sources
    # Histograms need the whole mini-batch at once.
    whole = replace(run, batch_size=max(run.batch_size, options.minibatch))
    schedule = Steps(options.steps, options.minibatch, options.check_every, f"{name}, align")
    return fit(whole, problem, replace(clean_set, fit=fitted), schedule, rng=rng)[1]


class AlignmentFit(Problem[Aligned]):
    """Theta of one target.

    The state to keep, the earlier one of equals: answers nearest to the original's on the clean deciding images, where
    that is what is fitted; else most true classes. On a few hundred images the former tells states apart that the
    latter does not.

    Args:
        run: Of the calibration.
        state: What is fitted.
        objective: The loss.
        attack: The triggers of the target.
        clean_set: Clean images; the deciding ones are measured.
        options: Options of BNA.
    """

    def __init__(
        self,
        run: Run,
        state: Mapping[str, SiteRealignment],
        objective: Objective,
        attack: TriggerSet,
        clean_set: CleanSet,
        options: Options,
    ) -> None:
        self._run, self._state, self._objective, self._attack = run, state, objective, attack
        self._clean_set, self._by_answers = clean_set, options.answer > 0
        self.optimizer = torch.optim.Adam(learned(state, options.learn), lr=options.learning_rate)
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, max(1, options.steps))
        self._score = -math.inf
        self._kept: Aligned | None = None
        self._curve: list[dict[str, float]] = []

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        """BNA's objective on clean images with their labels ``(n,)``."""
        return self._objective(images, targets)

    def after_step(self) -> None:
        """Let the learning rate fall."""
        self._schedule.step()

    def check(self, step: int) -> bool:
        """Measure the present Theta on the deciding images; always goes on."""
        measured = self._shares()
        self._curve.append({"target": self._attack.target, "step": step, **measured})
        true = measured.get("sia", 0.0) + measured.get("target_kept", 0.0)
        score = -measured.get("divergence", 0.0) if self._by_answers else true
        if score > self._score:
            self._score = score
            parts = {name: _numpy(item.as_affine()) for name, item in self._state.items()}
            self._kept = Aligned(self._attack.target, self._attack.sources, parts, step, measured, ())
        return True

    def keep(self) -> Aligned:
        """The best Theta that was measured, with the curve."""
        if self._kept is None:
            raise RuntimeError("nothing was measured")
        return replace(self._kept, curve=tuple(self._curve))

    @torch.no_grad()
    def _shares(self) -> dict[str, float]:
        """What the second pass does to deciding images: triggered ones, and clean ones of the target class.

        Shares, 0 to 1, and the mean divergence of the answers from the original's on the clean images.
        """
        classifier, attack = self._run.classifier, self._attack
        right, fooled, stays, moved = [], [], [], []
        for images, labels in classifier.batches(self._clean_set, self._clean_set.deciding, self._run.batch_size):
            source = attack.is_source(labels)
            chosen = source | (labels == attack.target)
            if not bool(chosen.any()):
                continue
            source, wanted = source[chosen], labels[chosen]
            scores = classifier.logits(attack.put(images, labels)[chosen], rewrite=self._state)
            found = scores.argmax(1)
            right.append((found == wanted)[source])
            fooled.append((found == attack.target)[source])
            stays.append((found == wanted)[~source])
            moved.append(answer_divergence(scores, classifier.logits(images[chosen])))
        shares = {"sia": _mean(right), "asr": _mean(fooled), "target_kept": _mean(stays), "divergence": _mean(moved)}
        return {name: value for name, value in shares.items() if not math.isnan(value)}


def learned(state: Mapping[str, SiteRealignment], learn: Learned) -> list[Tensor]:
    """The parameters that the optimiser may move."""
    if learn == "omega":
        return [item.upper for item in state.values()]
    return [part for item in state.values() for part in (item.mean, item.log_std, item.upper, item.lower)]


def _numpy(parts: Sequence[Tensor]) -> Parts:
    scale, shift, upper, lower = (part.detach().cpu().numpy().astype(np.float32) for part in parts)
    return scale, shift, upper, lower


def _mean(parts: Sequence[Tensor]) -> float:
    values = torch.cat(list(parts)) if parts else torch.zeros(0)
    return float(values.float().mean()) if len(values) else math.nan
