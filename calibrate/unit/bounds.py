# SPDX-License-Identifier: Apache-2.0
"""The bounds of all sites as functions of one parameter tensor a site, in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patcher.calibrate.classifier import Rewrite, chain
from patcher.calibrate.patched import limit_mean
from patcher.calibrate.statistics import Moments
from patcher.calibrate.unit.ties import shared_parameters
from patcher.patch import Correction, MeanBound, UpperBound

_SMALLEST_MEAN = 1e-4  # of a bound on a mean: positive in half precision, too


class Bounds:
    """The bounds of all sites as functions of one parameter tensor a site."""

    def __init__(self, moments: Mapping[str, Moments], z: float) -> None:
        self.mean = {name: found.mean.float() for name, found in moments.items()}
        self.spread = {name: (z * found.std).float() for name, found in moments.items()}
        self._highest = {name: found.high.float() for name, found in moments.items()}
        self.log_scale = shared_parameters(moments)
        self.doublings = 0
        self.rewrite: Mapping[str, Callable[[Tensor], Tensor]] = {name: self._apply(name) for name in self.mean}

    @property
    def parameters(self) -> list[Tensor]:
        """What the optimiser moves: one tensor a site, or one a residual stream."""
        return list({id(part): part for part in self.log_scale.values()}.values())

    def bound(self, name: str) -> Tensor:
        """``mean + z * std``, of the site's rank with a leading 1."""
        return self.mean[name] + self.spread[name] * self.log_scale[name].exp()

    def array(self, name: str) -> NDArray[np.float32]:
        """The bound as it goes into the patch."""
        return self.bound(name).detach().cpu().numpy()

    def tightness(self, regularizer: str) -> Tensor:
        """Sum over sites of the mean bound, relative to the start or absolute."""
        if regularizer == "absolute":
            return torch.stack([self.bound(name).mean() for name in self.mean]).sum()
        return torch.stack([scale.exp().mean() for scale in self.log_scale.values()]).sum()

    @torch.no_grad()
    def widen(self) -> None:
        """Double the start's distance from the mean, up to the highest clean value; all, once all are there."""
        wider = {
            name: torch.maximum(spread, torch.minimum(2 * spread, self._highest[name] - self.mean[name]))
            for name, spread in self.spread.items()
        }
        grew = any(bool((wider[name] > spread).any()) for name, spread in self.spread.items())
        self.doublings += 1
        self.spread = wider if grew else {name: 2 * spread for name, spread in self.spread.items()}

    def correction(self, name: str) -> Correction:
        """The bound as it goes into the patch."""
        return UpperBound(name, self.array(name))

    def _apply(self, name: str) -> Callable[[Tensor], Tensor]:
        return lambda value: _minimum(value, self.bound(name).to(value.dtype))


class MeanBounds(Bounds):
    """Bounds on the mean of a channel over the places of an image, from moments of that mean."""

    def bound(self, name: str) -> Tensor:
        """``mean + z * std``, positive."""
        return super().bound(name).clamp_min(_SMALLEST_MEAN)

    def correction(self, name: str) -> Correction:
        """The bound as it goes into the patch."""
        return MeanBound(name, self.array(name))

    def _apply(self, name: str) -> Callable[[Tensor], Tensor]:
        return lambda value: limit_mean(value, self.bound(name))


class BoundSet:
    """Bounds of several kinds, fitted together; of one site those of the first kind act first."""

    def __init__(self, *kinds: Bounds) -> None:
        self.kinds = kinds
        self.rewrite: Rewrite = {}
        for kind in kinds:
            self.rewrite = chain(self.rewrite, kind.rewrite)
        self.count = sum(len(kind.mean) for kind in kinds)

    @property
    def parameters(self) -> list[Tensor]:
        """What the optimiser moves."""
        return [part for kind in self.kinds for part in kind.parameters]

    @torch.no_grad()
    def restart(self) -> None:
        """Back to the start."""
        for parameter in self.parameters:
            parameter.zero_()

    def tightness(self, regularizer: str) -> Tensor:
        """Sum over kinds and sites of the mean bound, relative to the start or absolute."""
        return torch.stack([kind.tightness(regularizer) for kind in self.kinds]).sum()

    def corrections(self, names: Iterable[str]) -> tuple[Correction, ...]:
        """All bounds, tensor by tensor in the order of `names`."""
        return tuple(kind.correction(name) for name in names for kind in self.kinds if name in kind.mean)


def _minimum(value: Tensor, bound: Tensor) -> Tensor:
    return cast("Tensor", _Minimum.apply(value, bound))  # type: ignore[no-untyped-call]


class _Minimum(torch.autograd.Function):
    """``min(value, bound)`` with a backward that is half as long as ``torch.minimum``'s.

    Where both are equal the whole gradient goes to the bound.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, bound: Tensor) -> Tensor:
        ctx.save_for_backward(value, bound)
        return torch.minimum(value, bound)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        value, bound = ctx.saved_tensors
        passed = gradient * (value < bound)
        return passed, (gradient - passed).sum_to_size(bound.shape)
