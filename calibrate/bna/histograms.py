# SPDX-License-Identifier: Apache-2.0
"""Soft histograms and the divergences between them.

BNA, Li et al., "Backdoor Mitigation by Correcting the Distribution of Neural Activations", Sec. 4.

A value x counts in the bin [a, b) with ``sigmoid(tau (x - a)) - sigmoid(tau (x - b))``, so that a count has
a gradient; the two end bins are open to infinity. With a bin width w, an edge k bins away from x changes its
count by less than ``exp(-tau w (k - 1))``, 3e-7 at the paper's tau = 150 and w = 0.1. So each value looks at
its two nearest edges only, and the cost grows with the values and not with values times bins.

When it does not hold: for ``tau w`` below about 10 the edges left out would matter; `Bins` refuses that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from patcher.calibrate.bna.options import Divergence
from patcher.errors import InputError

_SMALLEST_SHARE = 1e-6  # keeps logarithms finite where a bin is empty
_SHARPEST = 10.0


@dataclass(frozen=True)
class Bins:
    """Bins of one width, the first and the last open to infinity.

    Attributes:
        low: Lower edge that the first bin would have.
        count: Number of bins, at least 3.
        width: Of a bin.
        temperature: tau, per unit of the values.
    """

    low: float
    count: int
    width: float = 0.1
    temperature: float = 150.0

    def __post_init__(self) -> None:
        if self.temperature * self.width < _SHARPEST:
            raise InputError(
                f"--temperature: at least {_SHARPEST / self.width:g} expected for bins of {self.width:g}, "
                f"found {self.temperature:g}"
            )
        if self.count < 3:
            raise InputError(f"a histogram of at least 3 bins expected, found {self.count}")


def soft_histogram(values: Tensor, bins: Bins) -> Tensor:
    """Share of the values in each bin, differentiable in the values.

    Args:
        values: ``(C, M)``: M values of each of C channels.
        bins: Where the edges are, the same for all channels.

    Returns:
        ``(C, bins.count)``; each row sums to 1.
    """
    channels, count = values.shape
    place = (values - bins.low) / bins.width
    with torch.no_grad():
        edge = place.floor().clamp(1, bins.count - 2)
        row = torch.arange(channels, device=values.device).unsqueeze(1) * bins.count
        index = (row + edge.long()).flatten()
    steepness = bins.temperature * bins.width
    above_lower = torch.sigmoid(steepness * (place - edge)).flatten()
    above_upper = torch.sigmoid(steepness * (place - edge - 1)).flatten()
    total = torch.zeros(channels * bins.count, dtype=values.dtype, device=values.device)
    total = total.index_add(0, index - 1, 1 - above_lower)
    total = total.index_add(0, index, above_lower - above_upper)
    total = total.index_add(0, index + 1, above_upper)
    return total.view(channels, bins.count) / count


def _total_variation(clean: Tensor, other: Tensor) -> Tensor:
    return 0.5 * (clean - other).abs().sum(1)


def _kullback_leibler(clean: Tensor, other: Tensor) -> Tensor:
    first, second = clean.clamp_min(_SMALLEST_SHARE), other.clamp_min(_SMALLEST_SHARE)
    return (first * (first / second).log()).sum(1)


def _jensen_shannon(clean: Tensor, other: Tensor) -> Tensor:
    middle = (clean + other) / 2
    return (_kullback_leibler(clean, middle) + _kullback_leibler(other, middle)) / 2


DIVERGENCES: dict[Divergence, Callable[[Tensor, Tensor], Tensor]] = {
    "tv": _total_variation,
    "js": _jensen_shannon,
    "kl": _kullback_leibler,
}
"""Divergence of histograms ``(C, B)`` from clean ones, per channel ``(C,)``."""
