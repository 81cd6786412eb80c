# SPDX-License-Identifier: Apache-2.0
"""Residual streams: activation sites whose channels meet in sums, without a weight between them.

Where such sites have one common bound a channel, folding it leaves nothing to pay (`patcher.export.fold.fold`): the
stream is stored in one scale from its first site to its last.
"""

from __future__ import annotations

from collections.abc import Sequence

from patcher.graph.disjoint_sets import DisjointSets
from patcher.graph.flow import DataFlow
from patcher.graph.scales import scale_flow
from patcher.graph.site import Site
from patcher.model.model import Model


def residual_streams(model: Model, sites: Sequence[Site]) -> list[tuple[str, ...]]:
    """Group activation sites by residual stream.

    Args:
        model: The model.
        sites: Activation sites, in graph order.

    Returns:
        Tensors of each stream with at least two sites, in graph order.
    """
    flow = DataFlow(model.proto.graph, model.input_names)
    scales = scale_flow(flow, model.shapes, {site.tensor for site in sites if site.operator == "ReLU6"})
    classes = DisjointSets(scales.count)
    for join in scales.joins:
        for inside, outside in zip(join.inside.tolist(), join.outside.tolist(), strict=True):
            classes.unite(inside, outside)
    streams: dict[tuple[int, ...], list[str]] = {}
    for site in sites:
        channels = scales.channels.get(site.tensor)
        if channels is None or len(channels.labels) != site.channels:
            continue
        key = tuple(classes.roots(channels.labels).tolist())
        # Labels fixed at 1 say nothing of who meets whom; a tensor with repeated channels cannot be tied to another.
        if key[0] and len(set(key)) == len(key):
            streams.setdefault(key, []).append(site.tensor)
    return [tuple(names) for names in streams.values() if len(names) > 1]
