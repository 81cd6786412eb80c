# SPDX-License-Identifier: Apache-2.0
"""The normalisation of BNA's second pass: mean, deviation, upper and lower bound per channel and site.

    h(z) = max(min((z - mu) / sigma, omega), nu)            one value a channel
    x'   = clean_std * h(x) + clean_mean                    back in the scale that the next layer knows

``clean_mean`` and ``clean_std`` are the channel's moments over clean images: with mu, sigma at these values
and the bounds at the clean extremes the map is the identity on clean images. Where the tensor is the output
of a BatchNormalization this is a BatchNormalization with other statistics; where that was folded away it
puts one back. The start of mu and sigma is the re-estimation: the moments over triggered images, taken site
by site in graph order with the corrections of the earlier sites in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from patcher.calibrate.classifier import Classifier
from patcher.calibrate.statistics import Moments, stream_moments
from patcher.graph.site import Site

_SMALLEST_STD = 1e-5
Function = Callable[[Tensor], Tensor]
Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]


class SiteRealignment:
    """h and the way back for one site; all tensors ``(1, C, 1, 1)`` (the site's rank with a leading 1).

    Attributes:
        mean: mu, in the tensor's own scale.
        log_std: Logarithm of sigma.
        upper: omega, in clean standard deviations from the clean mean.
        lower: nu, likewise.
    """

    def __init__(self, clean: Moments, *, mean: Tensor, std: Tensor) -> None:
        self.clean_mean = clean.mean.float()
        self.clean_std = clean.std.float().clamp_min(_SMALLEST_STD)
        self.mean = mean.float().clone().requires_grad_()
        self.log_std = std.float().clamp_min(_SMALLEST_STD).log().requires_grad_()
        self.upper = ((clean.high.float() - self.clean_mean) / self.clean_std).requires_grad_()
        self.lower = ((clean.low.float() - self.clean_mean) / self.clean_std).requires_grad_()

    def normalized(self, value: Tensor) -> Tensor:
        """``h(value)``."""
        return torch.maximum(torch.minimum((value - self.mean) * torch.exp(-self.log_std), self.upper), self.lower)

    def __call__(self, value: Tensor) -> Tensor:
        """The corrected value in the tensor's own scale."""
        return self.clean_std * self.normalized(value) + self.clean_mean

    @torch.no_grad()
    def as_affine(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Scale, shift, upper and lower bound of ``max(min(scale * x + shift, upper), lower)``, in float32."""
        scale = self.clean_std.double() * torch.exp(-self.log_std.double())
        shift = self.clean_mean.double() - scale * self.mean.double()
        upper = self.clean_std * self.upper + self.clean_mean
        lower = torch.minimum(self.clean_std * self.lower + self.clean_mean, upper)
        return scale.float(), shift.float(), upper, lower


def reestimate(
    classifier: Classifier,
    sites: Sequence[Site],
    clean: Mapping[str, Moments],
    triggered: Batches,
    progress: Callable[[int, int], None],
) -> dict[str, SiteRealignment]:
    """Start every site from the moments over triggered images.

    Args:
        classifier: The model.
        sites: In graph order.
        clean: Moments over clean images by tensor.
        triggered: Gives batches of triggered images ``(n, C, H, W)`` and labels, afresh at each call.
        progress: Told of each site.

    Returns:
        One `SiteRealignment` a site, by tensor name.
    """
    found: dict[str, SiteRealignment] = {}
    for number, site in enumerate(sites):
        with torch.no_grad():
            moments = stream_moments(classifier, [site], triggered(), rewrite=found)[site.tensor]
        found[site.tensor] = SiteRealignment(clean[site.tensor], mean=moments.mean, std=moments.std)
        progress(number + 1, len(sites))
    return found
