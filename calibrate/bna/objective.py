# SPDX-License-Identifier: Apache-2.0
"""What BNA minimises: the distance of triggered from clean statistics, and of the answers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from patcher.calibrate.bna.histograms import DIVERGENCES, Bins, soft_histogram
from patcher.calibrate.bna.normalization import SiteRealignment
from patcher.calibrate.bna.options import Options
from patcher.calibrate.classifier import Classifier
from patcher.calibrate.statistics import Moments
from patcher.calibrate.triggered import TriggerSet
from patcher.graph.site import Site

_VALUES = 8192  # of a channel and batch that are counted; chosen, not measured
_BIN_WIDTH = 0.1  # clean standard deviations; the paper's number (Sec. 4)
_MOST_BINS = 1000  # bounds memory; chosen, not measured


class Objective:
    """The loss of one batch: divergence of histograms, and divergence of answers."""

    def __init__(
        self,
        classifier: Classifier,
        sites: Sequence[Site],
        state: Mapping[str, SiteRealignment],
        attack: TriggerSet,
        options: Options,
    ) -> None:
        self._classifier, self._sites, self._state = classifier, sites, state
        self._attack, self._options = attack, options
        self._names = [site.tensor for site in sites] if options.alignment else []
        self._bins: dict[str, Bins] = {}
        self._reference: dict[str, Tensor] = {}

    @torch.no_grad()
    def set_reference(self, clean: Mapping[str, Moments], batches: Iterator[tuple[Tensor, Tensor]]) -> None:
        """Take the clean histograms under f, ``(C, bins)`` a site."""
        if not self._names:
            return
        for name in self._names:
            self._bins[name] = _bins(clean[name], self._options.temperature)
        sums: dict[str, Tensor] = {}
        total = 0
        for images, _ in batches:
            values = self._classifier.run(images, fetch=self._names)
            for site in self._sites:
                counted = self._histogram(site, values[site.tensor]) * len(images)
                sums[site.tensor] = sums[site.tensor] + counted if site.tensor in sums else counted
            total += len(images)
        self._reference = {name: counts / total for name, counts in sums.items()}

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Loss of clean images ``(n, C, H, W)`` of source classes, triggered here, and of the target class."""
        source = self._attack.is_source(labels)
        pixels = self._attack.put(images, labels)
        values = self._classifier.run(pixels, fetch=self._names, rewrite=self._state)
        loss = values[self._classifier.model.logits].sum() * 0
        if self._names and bool(source.any()):
            divergence = DIVERGENCES[self._options.divergence]
            terms = [
                divergence(self._reference[site.tensor], self._histogram(site, values[site.tensor][source])).mean()
                for site in self._sites
            ]
            loss = loss + self._options.alignment * torch.stack(terms).mean()
        if self._options.answer:
            loss = loss + self._options.answer * self._answers(images, values)
        return loss

    def _answers(self, images: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        with torch.no_grad():
            wanted = self._classifier.logits(images)
        return answer_divergence(self._classifier.as_logits(values[self._classifier.model.logits]), wanted).mean()

    def _histogram(self, site: Site, value: Tensor) -> Tensor:
        """Soft histogram of a tensor's channels in clean standard deviations from the clean mean."""
        realignment = self._state[site.tensor]
        normal = (value - realignment.clean_mean) / realignment.clean_std
        rows = normal.movedim(site.channel_axis, 0).flatten(1)
        stride = max(1, rows.shape[1] // _VALUES)
        # Odd, so that it does not fall into step with the even widths of activation maps.
        return soft_histogram(rows[:, :: stride + 1 - stride % 2], self._bins[site.tensor])


def answer_divergence(given: Tensor, wanted: Tensor) -> Tensor:
    """``KL(wanted || given)`` of class scores ``(n, K)``, one value a row: ``(n,)``."""
    parts = torch.nn.functional.kl_div(given.log_softmax(1), wanted.log_softmax(1), log_target=True, reduction="none")
    return parts.sum(1)


def _bins(clean: Moments, temperature: float) -> Bins:
    """Bins between the clean extremes of all channels of a site, in clean standard deviations."""
    std = clean.std.clamp_min(1e-5)
    low = math.floor(float(((clean.low - clean.mean) / std).min()) / _BIN_WIDTH) * _BIN_WIDTH
    high = float(((clean.high - clean.mean) / std).max())
    count = min(max(3, math.ceil((high - low) / _BIN_WIDTH)), _MOST_BINS)
    return Bins(low, count, _BIN_WIDTH, temperature)
