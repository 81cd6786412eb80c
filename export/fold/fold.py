# SPDX-License-Identifier: Apache-2.0
"""Bounds without cost: scaled weights and a scalar clip in place of a ``Min`` with a constant.

    Conv(W) ─▶ Relu ─▶ Min(b) ─▶ Conv(V)     becomes     Conv(W / b) ─▶ Clip(0, 1) ─▶ Conv(V b)

``min(relu(y), b) = b * clip(y / b, 0, 1)`` for b > 0: 1 / b goes into the layer before, b into the input channels of
the layers behind. ONNX Runtime fuses the scalar ``Clip`` into the convolution, which a ``Min`` prevents. Behind a
residual sum it fuses ``HardSigmoid(alpha=1, beta=0)`` instead, which is the same function. Where two bounds meet in
a sum, one operand is rescaled: by a BatchNormalization, which ONNX Runtime keeps in its blocked layout.

The tensor behind a folded bound keeps its name and holds its value divided by the bound. Outputs are the same up to
rounding. A bound that cannot be folded keeps its node; `patcher.export.fold.plan` says when.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from patcher.export.fold.edit import apply_plan
from patcher.export.fold.plan import plan_fold
from patcher.export.fold.sites import BoundedSite, match_site
from patcher.graph.channels import channel_axes
from patcher.graph.flow import DataFlow
from patcher.model.model import Model

_OLDEST_OPSET = 11  # Clip takes its bounds as inputs from here on


@dataclass(frozen=True)
class BakedSite:
    """How the bound of a site was baked.

    Attributes:
        tensor: The bounded tensor.
        form: ``folded``, or ``node`` where it is a node of its own.
        reason: Why it is a node; empty where it is folded.
    """

    tensor: str
    form: str
    reason: str = ""


@dataclass(frozen=True)
class Folded:
    """A model with folded bounds.

    Attributes:
        model: The model; the one that came in where nothing could be folded.
        sites: How each bound was baked.
        rescaled: Operands of sums that are rescaled, one pass each.
    """

    model: onnx.ModelProto
    sites: tuple[BakedSite, ...]
    rescaled: tuple[str, ...]

    @property
    def passes(self) -> int:
        """Passes over the data that the unpatched model does not need."""
        return len(self.rescaled) + sum(site.form == "node" for site in self.sites)


def fold_bounds(hardened: onnx.ModelProto, model: Model, tensors: Sequence[str]) -> Folded:
    """Fold the upper bounds of a hardened model.

    Args:
        hardened: The model with its bounds as nodes; it is not modified.
        model: The model before it was hardened.
        tensors: The bounded tensors.

    Returns:
        A new model, and how each bound was baked.
    """
    flow = DataFlow(hardened.graph, model.input_names)
    shapes, axes = _shapes(flow, model, tensors), _channel_axes(model)
    kept: dict[str, str] = {}
    sites: list[BoundedSite] = []
    for tensor in tensors:
        found: BoundedSite | str = f"opset {_OLDEST_OPSET} or later is needed"
        if model.opset >= _OLDEST_OPSET:
            rank = len(shapes.get(tensor, ()))
            found = match_site(flow, tensor, model.elem_types.get(tensor, 0), rank, axes.get(tensor, 1))
        if isinstance(found, str):
            kept[tensor] = found
        else:
            sites.append(found)
    plan = plan_fold(flow, shapes, tuple(sites), kept)
    reasons = plan.kept
    baked = tuple(BakedSite(name, "node" if name in reasons else "folded", reasons.get(name, "")) for name in tensors)
    rescaled = tuple(flow.nodes[number].input[operand] for number, operand in plan.gains)
    elem_types = {name: model.elem_types[name] for name in (*rescaled, *(site.tensor for site in plan.sites))}
    return Folded(apply_plan(hardened, flow, plan, elem_types) if plan.sites else hardened, baked, rescaled)


def _shapes(flow: DataFlow, model: Model, tensors: Sequence[str]) -> dict[str, tuple[int | None, ...]]:
    """The model's shapes, and those of the tensors that bounds put before the bounded ones."""
    shapes = dict(model.shapes)
    for tensor in tensors:
        node = flow.producer(tensor)
        if node is not None and tensor in shapes:
            shapes.update({name: shapes[tensor] for name in node.input if flow.is_live(name) and name not in shapes})
    return shapes


def _channel_axes(model: Model) -> dict[str, int]:
    flow = DataFlow(model.proto.graph, model.input_names)
    return channel_axes(flow, model.shapes, model.input_names, model.channel_axis)
