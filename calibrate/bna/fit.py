# SPDX-License-Identifier: Apache-2.0
"""BNA's objective for one target, and the search for its minimum; see `patcher.calibrate.bna.method`.

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
from patcher.calibrate.classifier import Classifier
from patcher.calibrate.statistics import stream_moments
from patcher.calibrate.training import fit
from patcher.calibrate.triggered import TriggerSet
from patcher.data.clean_set import CleanSet, Indices
from patcher.errors import CalibrationError
from patcher.graph.site import Site
from patcher.progress import Progress
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


class Search:
    """Fits Theta for one target after the other."""

    def __init__(
        self,
        classifier: Classifier,
        sites: Sequence[Site],
        clean_set: CleanSet,
        decide: Indices,
        options: Options,
        *,
        seed: int,
        batch_size: int,
    ) -> None:
        self._classifier, self._sites, self._clean_set, self._decide = classifier, sites, clean_set, decide
        self._options, self._seed, self._batch_size = options, seed, batch_size
        self._labels = torch.from_numpy(clean_set.labels).to(classifier.device)

    def fit(self, triggers: Sequence[Trigger], progress: Progress) -> Aligned:
        """Fit Theta of the target that `triggers` share.

        Raises:
            CalibrationError: The clean set has no image of their source classes.
        """
        attack, options = TriggerSet(triggers, self._classifier.model.num_classes), self._options
        labels = self._clean_set.labels[self._clean_set.fit]
        sources = self._clean_set.fit[np.isin(labels, attack.sources)]
        if not len(sources):
            raise CalibrationError(
                f"no clean image of the source classes {list(attack.sources)} of target {attack.target}; add some"
            )
        rng = np.random.default_rng(self._seed)
        reference = np.sort(rng.permutation(sources)[:_REFERENCE_IMAGES])
        name = f"bna: class {attack.target}"
        clean = stream_moments(self._classifier, self._sites, self._batches(reference))
        state = reestimate(
            self._classifier,
            self._sites,
            clean,
            lambda: attack.batches(self._batches(reference)),
            lambda done, total: progress(f"{name}, re-estimate", done, total),
        )
        objective = Objective(self._classifier, self._sites, state, attack, options)
        objective.set_reference(clean, self._batches(reference))
        best = _Best(self, attack, state, by_answers=options.answer > 0)
        kept = self._clean_set.fit[labels == attack.target]
        subset = replace(self._clean_set, fit=np.sort(np.concatenate([sources, kept])) if options.answer else sources)
        if options.steps and options.learn != "none":
            optimizer = torch.optim.Adam(learned(state, options.learn), lr=options.learning_rate)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
            fit(
                self._classifier,
                subset,
                torch.arange(len(self._clean_set), device=self._classifier.device),
                lambda images, rows: objective(images, self._labels[rows]),
                optimizer,
                steps=options.steps,
                minibatch=options.minibatch,
                batch_size=max(self._batch_size, options.minibatch),
                rng=rng,
                check=best.check,
                check_every=options.check_every,
                after_step=schedule.step,
                progress=progress,
                description=f"{name}, align",
            )
        else:
            best.check(0)
        return best.aligned()

    def shares(self, attack: TriggerSet, state: Mapping[str, SiteRealignment]) -> dict[str, float]:
        """What the second pass does to held-out images: triggered ones, and clean ones of the target class.

        Shares, 0 to 1, and the mean divergence of the answers from the original's on the clean images.
        """
        right, fooled, stays, moved = [], [], [], []
        with torch.no_grad():
            for images, labels in self._batches(self._decide):
                source = attack.is_source(labels)
                chosen = source | (labels == attack.target)
                if not bool(chosen.any()):
                    continue
                source, wanted = source[chosen], labels[chosen]
                scores = self._classifier.logits(attack.put(images, labels)[chosen], rewrite=state)
                found = scores.argmax(1)
                right.append((found == wanted)[source])
                fooled.append((found == attack.target)[source])
                stays.append((found == wanted)[~source])
                moved.append(answer_divergence(scores, self._classifier.logits(images[chosen])))
        shares = {"sia": _mean(right), "asr": _mean(fooled), "target_kept": _mean(stays), "divergence": _mean(moved)}
        return {name: value for name, value in shares.items() if not math.isnan(value)}

    def _batches(self, indices: Indices) -> Iterator[tuple[Tensor, Tensor]]:
        return self._classifier.batches(self._clean_set, indices, self._batch_size)


class _Best:
    """Measures states on held-out images and keeps the best, the earlier one of equals.

    Best: answers nearest to the original's on the clean images, where that is what is fitted; else most true
    classes. On a few hundred images the former tells states apart that the latter does not.
    """

    def __init__(
        self, search: Search, attack: TriggerSet, state: Mapping[str, SiteRealignment], *, by_answers: bool
    ) -> None:
        self._search, self._attack, self._state, self._by_answers = search, attack, state, by_answers
        self._score = -math.inf
        self._kept: Aligned | None = None
        self._curve: list[dict[str, float]] = []

    def check(self, step: int) -> bool:
        measured = self._search.shares(self._attack, self._state)
        self._curve.append({"target": self._attack.target, "step": step, **measured})
        true = measured.get("sia", 0.0) + measured.get("target_kept", 0.0)
        score = -measured.get("divergence", 0.0) if self._by_answers else true
        if score > self._score:
            self._score = score
            parts = {name: _numpy(item.as_affine()) for name, item in self._state.items()}
            self._kept = Aligned(self._attack.target, self._attack.sources, parts, step, measured, ())
        return True

    def aligned(self) -> Aligned:
        if self._kept is None:
            raise RuntimeError("nothing was measured")
        return replace(self._kept, curve=tuple(self._curve))


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
