# SPDX-License-Identifier: Apache-2.0
"""Shared bounds along residual streams (``--tie-residual``).

Sites whose channels meet in residual sums get one bound vector, fitted as one: the folded form then needs no
rescaling on the skips. The shared bound starts at the largest along the stream, channel by channel, and is
loose where the stream's activations are small; what that costs is in docs/performance.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields

import torch
from torch import Tensor

from patcher.calibrate.statistics import Moments
from patcher.graph.site import Site
from patcher.graph.streams import residual_streams
from patcher.model.model import Model


def tie_moments(moments: Mapping[str, Moments], model: Model, sites: Sequence[Site], z: float) -> dict[str, Moments]:
    """Give the sites of each residual stream one and the same `Moments`.

    Args:
        moments: By tensor.
        model: The model.
        sites: Activation sites.
        z: Standard deviations above the mean at which bounds start.

    Returns:
        Moments by tensor; along a stream the same object. Sites of other shapes than the stream's first stay alone.
    """
    tied = dict(moments)
    for stream in residual_streams(model, sites):
        same = [name for name in stream if moments[name].mean.shape == moments[stream[0]].mean.shape]
        shared = _highest([moments[name] for name in same], z)
        tied.update({name: shared for name in same})
    return tied


def shared_parameters(moments: Mapping[str, Moments]) -> dict[str, Tensor]:
    """One zero parameter for each distinct `Moments`, by tensor."""
    made: dict[int, Tensor] = {}
    for found in moments.values():
        if id(found) not in made:
            made[id(found)] = torch.zeros_like(found.mean, dtype=torch.float32).requires_grad_()
    return {name: made[id(found)] for name, found in moments.items()}


def _highest(group: Sequence[Moments], z: float) -> Moments:
    """Channel by channel, the moments whose start bound is highest."""
    chosen = torch.stack([found.mean + z * found.std for found in group]).argmax(0, keepdim=True)
    values = {
        part.name: torch.stack([getattr(found, part.name) for found in group]).gather(0, chosen)[0]
        for part in fields(Moments)
    }
    return Moments(**values)
