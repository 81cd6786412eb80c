# SPDX-License-Identifier: Apache-2.0
"""How upper bounds are baked: as nodes, folded into the weights, or whichever leaves less to compute.

- ``nodes``: a ``Min`` or ``Clip`` behind each site. Every weight of the model stays as it is, bit for bit.
- ``folded``: see `patcher.export.fold.fold`. Bounds that cannot be folded stay nodes.
- ``auto``: ``folded`` where that takes fewer passes over the data, else ``nodes``.

The metadata of a folded model says ``patcher.bake = folded``, and carries the patch: once folded, bounds cannot be
read off the weights any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import onnx

from patcher.errors import InputError
from patcher.export.apply import apply_patch, carry_corrections
from patcher.export.fold.fold import BakedSite, fold_bounds
from patcher.export.parity.parity import Outputs, run_model
from patcher.model.file import fits_inline
from patcher.model.model import Model
from patcher.patch import Patch, UpperBound
from patcher.runtime import CPU_PROVIDER

Bake = Literal["nodes", "folded", "auto"]
_METADATA_KEY = "patcher.bake"


@dataclass(frozen=True)
class Baked:
    """A hardened model and how its bounds were baked.

    Attributes:
        model: The model.
        nodes: The same with every bound as a node.
        sites: How each bound was baked; empty where the patch has none.
        rescaled: Operands of residual sums that are rescaled, one pass each.
        why: Why this form, where ``auto`` chose it.
    """

    model: onnx.ModelProto
    nodes: onnx.ModelProto
    sites: tuple[BakedSite, ...] = ()
    rescaled: tuple[str, ...] = ()
    why: str = ""

    @property
    def folded(self) -> bool:
        """Whether any bound was folded."""
        return any(site.form == "folded" for site in self.sites)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "folded": sum(site.form == "folded" for site in self.sites),
            "nodes": {site.tensor: site.reason for site in self.sites if site.form == "node"},
            "rescaled": list(self.rescaled),
        }


def bake_patch(model: Model, patch: Patch, bake: Bake = "nodes") -> Baked:
    """Bake a patch into a copy of a model.

    Args:
        model: The model the patch was calibrated on; it is not modified.
        patch: The patch.
        bake: How its upper bounds are baked.

    Raises:
        InputError: The patch was made for another model, a correction does not fit, or `bake` is unknown.
        UnsupportedGraphError: A correction names a tensor that cannot be patched.
    """
    if bake not in ("nodes", "folded", "auto"):
        raise InputError(f"--bake: nodes, folded or auto expected, found {bake!r}")
    nodes = apply_patch(model, patch)
    tensors = list(dict.fromkeys(item.tensor for item in patch.corrections if isinstance(item, UpperBound)))
    if not tensors or bake == "nodes":
        return Baked(nodes, nodes, tuple(BakedSite(name, "node", "--bake nodes") for name in tensors))
    folded = fold_bounds(nodes, model, tensors)
    if bake == "auto" and folded.passes >= len(tensors):
        sites = tuple(BakedSite(name, "node", "folding saves nothing") for name in tensors)
        return Baked(nodes, nodes, sites, why="folding would save no pass over the data")
    if folded.model is not nodes:
        folded.model.metadata_props.add(key=_METADATA_KEY, value="folded")
        carry_corrections(folded.model, patch)
        if fits_inline(folded.model):
            onnx.checker.check_model(folded.model)
    why = f"{folded.passes} passes over the data instead of {len(tensors)}" if bake == "auto" else ""
    return Baked(folded.model, nodes, folded.sites, folded.rescaled, why)


def baked_form(proto: onnx.ModelProto) -> Bake:
    """The form that a hardened model says it has."""
    entries = {entry.key: entry.value for entry in proto.metadata_props}
    return "folded" if entries.get(_METADATA_KEY) == "folded" else "nodes"


def node_outputs(
    baked: Baked, model: Model, inputs: Sequence[Any], providers: Sequence[str] = (CPU_PROVIDER,)
) -> Outputs | None:
    """What the node form answers, which the folded form must answer too; ``None`` where nothing was folded.

    Args:
        baked: The hardened model.
        model: The model before.
        inputs: Batches as the model takes them.
        providers: Execution providers.
    """
    if not baked.folded:
        return None
    return run_model(baked.nodes, model, inputs, optimization="disabled", providers=providers)
