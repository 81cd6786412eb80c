# SPDX-License-Identifier: Apache-2.0
"""What to fold: the bounds that can be, the new constants, and the operands that need a rescaling.

Every bound that can be folded is taken; one that turns out to contradict the graph (an output of the model, an
operator that is not homogeneous, another bound on the same channels, a number beyond the type's range) is given up
with its reason, and the rest is worked out again. A bound is also given up where that saves more passes over the
data than the node costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from patcher.export.fold.factors import Factor, Factors, settle_joins
from patcher.export.fold.sites import BoundedSite
from patcher.export.fold.weights import folded_constants, input_channels, output_axis, rounded
from patcher.export.fold.zeros import Silenced, silence
from patcher.graph.flow import DataFlow
from patcher.graph.scale_labels import ScaleFlow
from patcher.graph.scale_rules import Shapes
from patcher.graph.scales import scale_flow


@dataclass(frozen=True)
class FoldPlan:
    """What to change.

    Attributes:
        sites: Bounds that become a scalar clip.
        constants: New constants by node and number of the input.
        gains: By node and operand of a sum, what the operand is multiplied with, ``(C,)``.
        axes: Channel axis of each rescaled operand.
        ranks: Number of axes of each rescaled operand.
        kept: By bounded tensor, why its bound stays a node.
    """

    sites: tuple[BoundedSite, ...]
    constants: Mapping[tuple[int, int], NDArray[Any]] = field(default_factory=dict)
    gains: Mapping[tuple[int, int], Factor] = field(default_factory=dict)
    axes: Mapping[tuple[int, int], int] = field(default_factory=dict)
    ranks: Mapping[tuple[int, int], int] = field(default_factory=dict)
    kept: Mapping[str, str] = field(default_factory=dict)

    @property
    def passes(self) -> int:
        """Passes over the data that the unpatched model does not need."""
        return len(self.kept) + len(self.gains)


@dataclass(frozen=True)
class _Attempt:
    """One set of sites worked out: the plan, or sites to give up and why."""

    plan: FoldPlan
    given_up: Mapping[str, str]


def plan_fold(flow: DataFlow, shapes: Shapes, sites: tuple[BoundedSite, ...], kept: Mapping[str, str]) -> FoldPlan:
    """Decide what to fold.

    Args:
        flow: Data flow of the model with the bounds as nodes.
        shapes: Its shapes.
        sites: Bounds that may be folded.
        kept: Bounds that may not, and why.

    Returns:
        The plan with the fewest passes that was found.
    """
    best = _settle(flow, shapes, sites, kept)
    for site in sites:
        reads_rescaled = any(site.tensor in flow.nodes[number].input for number, _ in best.gains)
        if site in best.sites and reads_rescaled:
            others = tuple(other for other in best.sites if other != site)
            fewer = _settle(flow, shapes, others, {**best.kept, site.tensor: "its node costs less than rescaling"})
            best = fewer if fewer.passes < best.passes else best
    return best


def _settle(flow: DataFlow, shapes: Shapes, sites: tuple[BoundedSite, ...], kept: Mapping[str, str]) -> FoldPlan:
    kept = dict(kept)
    while True:
        chosen = tuple(site for site in sites if site.tensor not in kept)
        if not chosen:
            return FoldPlan((), kept=kept)
        attempt = _attempt(flow, shapes, chosen, kept)
        if not attempt.given_up:
            return attempt.plan
        kept.update(attempt.given_up)


def _attempt(flow: DataFlow, shapes: Shapes, sites: tuple[BoundedSite, ...], kept: Mapping[str, str]) -> _Attempt:
    passing = {flow.nodes[number].output[0] for site in sites for number in site.outputs}
    scales = scale_flow(flow, shapes, passing)
    factors = Factors(scales.count, scales.fixed)
    silenced, given_up = Silenced(), {}
    for site in sites:
        reason = _place(flow, scales, factors, site, silenced)
        if reason:
            given_up[site.tensor] = reason
    if given_up:
        return _Attempt(FoldPlan(()), given_up)
    gains = settle_joins(factors, scales.joins, silenced.operands)
    constants: dict[tuple[int, int], NDArray[Any]] = {}
    for number in sorted(scales.linear | scales.offsets):
        found = _constants(flow, shapes, scales, factors, number, silenced)
        if found is None:
            given_up.update(_neighbours(scales, factors, sites, flow.nodes[number]))
        else:
            constants.update({(number, index): value for index, value in found.items()})
    operands = {key: flow.nodes[key[0]].input[key[1]] for key in gains}
    axes = {key: scales.channels[flow.nodes[key[0]].output[0]].axis for key in gains}
    ranks = {key: len(shapes[name]) for key, name in operands.items()}
    return _Attempt(FoldPlan(sites, constants, gains, axes, ranks, dict(kept)), given_up)


def _place(flow: DataFlow, scales: ScaleFlow, factors: Factors, site: BoundedSite, silenced: Silenced) -> str | None:
    """Give a site's channels their factors; the reason where that is not possible."""
    channels = scales.channels.get(site.tensor)
    if channels is None:
        return "the layer before it cannot take a factor"
    fixed = next((scales.fixed[label] for label in channels.labels.tolist() if label in scales.fixed), None)
    if fixed:
        return fixed
    if site.bound.size not in (1, len(channels.labels)):
        return "its channels lie along another axis"
    bound = np.broadcast_to(site.bound, channels.labels.shape)
    keep = (bound > 0).astype(np.float64)
    if not keep.all():
        removed = silence(flow, scales, site.source, keep)
        if removed is None:
            return "a bound is 0 and the layer before it cannot be made 0"
        silenced.update(removed)
    if not factors.set(channels.labels, np.where(bound > 0, bound, 1.0)):
        return "another bound acts on the same channels"
    return None


def _constants(
    flow: DataFlow, shapes: Shapes, scales: ScaleFlow, factors: Factors, number: int, silenced: Silenced
) -> dict[int, NDArray[Any]] | None:
    """New constants of a node in their type; ``None`` where one leaves its range."""
    node = flow.nodes[number]
    leaving = scales.channels[node.output[0]]
    gain = silenced.nodes.get(number, 1.0) / factors.of(leaving.labels)
    if number in scales.offsets:
        values = folded_constants(flow, node, np.ones(1), gain, len(shapes[node.output[0]]) - leaving.axis - 1)
    else:
        weight = _value(flow, node.input[1])
        entering = scales.channels.get(node.input[0])
        ones = np.ones(input_channels(node, weight))
        values = folded_constants(flow, node, ones if entering is None else factors.of(entering.labels), gain)
    result = {
        index: rounded(value, _value(flow, node.input[index]).dtype, output_axis(node))
        for index, value in values.items()
    }
    return (
        None if any(value is None for value in result.values()) else {k: v for k, v in result.items() if v is not None}
    )


def _neighbours(
    scales: ScaleFlow, factors: Factors, sites: tuple[BoundedSite, ...], node: onnx.NodeProto
) -> dict[str, str]:
    """Sites whose factors a node's constants take."""
    labels = [scales.channels[name].labels for name in (*node.input, node.output[0]) if name in scales.channels]
    roots = set(factors.roots(np.concatenate(labels)).tolist())
    reason = f"the weights of {node.output[0]!r} would leave the range of their type"
    return {
        site.tensor: reason
        for site in sites
        if roots & set(factors.roots(scales.channels[site.tensor].labels).tolist())
    }


def _value(flow: DataFlow, tensor: str) -> NDArray[Any]:
    value = flow.value(tensor)
    if value is None:
        raise RuntimeError(f"constant {tensor!r} was readable before")
    return value
