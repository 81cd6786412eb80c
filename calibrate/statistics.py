# SPDX-License-Identifier: Apache-2.0
"""Streaming statistics of activations over clean images.

Sums are kept in float64 and grow with the number of channels (or elements), never with the number of
images, and do not depend on how the images are cut into batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patcher.calibrate.classifier import Classifier, Rewrite
from patcher.calibrate.options import Granularity
from patcher.graph.site import Site
from patcher.patch import UpperBound

# Of a batch that is worked on at once: what is made of it on the way stays in the processor's cache.
_PART_BYTES = 2**20


@dataclass(frozen=True)
class Moments:
    """Mean, standard deviation and extremes of one tensor.

    Attributes:
        mean: float64, of the tensor's rank with a leading 1: ``(1, C, 1, 1)`` per channel,
            ``(1, C, H, W)`` per element.
        std: Population standard deviation, same shape.
        low: Smallest value, same shape.
        high: Largest value, same shape.
    """

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor


class MomentSums:
    """Running sums over batches, in float64 on the values' device."""

    def __init__(self) -> None:
        self._count = 0
        self._sum = self._square = self._low = self._high = torch.empty(0)

    def add(self, value: Tensor, axes: tuple[int, ...]) -> None:
        """Take in one batch.

        Args:
            value: One batch of a tensor.
            axes: Axes to sum over, the first among them.
        """
        for part in _parts(value.detach()):
            low, high = part.amin(axes, keepdim=True).double(), part.amax(axes, keepdim=True).double()
            precise = part.double()
            total = precise.sum(axes, keepdim=True)
            square = (precise * precise).sum(axes, keepdim=True)
            if self._count:
                total, square = self._sum + total, self._square + square
                low, high = torch.minimum(self._low, low), torch.maximum(self._high, high)
            self._count += part.numel() // total.numel()
            self._sum, self._square, self._low, self._high = total, square, low, high

    def moments(self) -> Moments:
        """What the batches so far amount to."""
        mean = self._sum / self._count
        variance = (self._square / self._count - mean.square()).clamp_min(0)
        return Moments(mean, variance.sqrt(), self._low, self._high)


def _parts(value: Tensor) -> Sequence[Tensor]:
    """Parts of a batch along its first axis, of about `_PART_BYTES`."""
    parts: Sequence[Tensor] = value.split(max(1, _PART_BYTES // max(1, value[:1].numel() * value.element_size())))
    return parts


def reduced_axes(site: Site, rank: int, granularity: Granularity) -> tuple[int, ...]:
    """Axes that one bound spans: the batch, and for ``channel`` all but the channel axis."""
    return tuple(axis for axis in range(rank) if axis == 0 or (granularity == "channel" and axis != site.channel_axis))


@torch.no_grad()
def stream_moments(
    classifier: Classifier,
    sites: Sequence[Site],
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    granularity: Granularity = "channel",
    rewrite: Rewrite | None = None,
) -> dict[str, Moments]:
    """Mean and standard deviation at each site over all images of `batches`.

    Args:
        classifier: The model.
        sites: Where to look.
        batches: Images ``(n, C, H, W)`` and labels, in any cut.
        granularity: One value a channel, or one an element of the activation map.
        rewrite: Corrections already in place.

    Returns:
        Moments by tensor name.
    """
    sums = {site.tensor: MomentSums() for site in sites}
    for images, _ in batches:
        values = classifier.run(images, fetch=tuple(sums), rewrite=rewrite, scores=False)
        for site in sites:
            value = values.pop(site.tensor)
            sums[site.tensor].add(value, reduced_axes(site, value.ndim, granularity))
    return {name: found.moments() for name, found in sums.items()}


@torch.no_grad()
def stream_means(
    classifier: Classifier, sites: Sequence[Site], batches: Iterable[tuple[Tensor, Tensor]]
) -> dict[str, Moments]:
    """Moments over images of a channel's mean over the places of an image.

    Args:
        classifier: The model.
        sites: Where to look; those without places (of rank 2) are left out.
        batches: Images ``(n, C, H, W)`` and labels, in any cut.

    Returns:
        Moments by tensor name, as `stream_moments` gives them by channel.
    """
    wide = [site for site in sites if len(site.shape) > 2]
    sums = {site.tensor: MomentSums() for site in wide}
    for images, _ in batches:
        values = classifier.run(images, fetch=tuple(sums), scores=False)
        for site in wide:
            value = values.pop(site.tensor)
            places = reduced_axes(site, value.ndim, "channel")[1:]
            sums[site.tensor].add(value.mean(places, keepdim=True), (0,))
    return {name: found.moments() for name, found in sums.items()}


@torch.no_grad()
def bound_histograms(
    classifier: Classifier,
    bounds: Sequence[UpperBound],
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    bins: int = 60,
    limit: float = 1.5,
) -> dict[str, NDArray[np.float64]]:
    """Distribution of clean activations relative to their bounds, for the report's picture.

    Args:
        classifier: The model, run without its bounds.
        bounds: Where to look.
        batches: Clean images.
        bins: Bins between 0 and `limit`.
        limit: Largest ratio shown; what lies beyond counts in the last bin.

    Returns:
        Share of the values in each bin ``(bins,)`` by tensor name, over channels whose bound is positive.
    """
    limits = {item.tensor: torch.from_numpy(item.bound).to(classifier.device) for item in bounds}
    counts = {name: torch.zeros(bins, dtype=torch.float64) for name in limits}
    for images, _ in batches:
        values = classifier.run(images, fetch=tuple(limits), scores=False)
        for name, bound in limits.items():
            known = bound.where(bound > 0, torch.nan)  # histc passes NaN over
            for part in _parts(values.pop(name)):
                counts[name] += torch.histc((part / known).clamp_(0, limit), bins, 0, limit).double().cpu()
    return {name: (count / count.sum().clamp_min(1)).numpy() for name, count in counts.items()}
