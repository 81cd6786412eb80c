# SPDX-License-Identifier: Apache-2.0
"""What every report says of a model and of the clean images."""

from __future__ import annotations

from typing import Any

from patcher.data.clean_set import CleanSet
from patcher.model.model import Model


def model_section(model: Model) -> dict[str, Any]:
    """What the report says of a model."""
    return {
        "name": model.path.name if model.path else "model",
        "sha256": model.sha256,
        "bytes": model.proto.ByteSize(),
        "opset": model.opset,
        "ir_version": model.proto.ir_version,
        "nodes": len(model.proto.graph.node),
        **({"changes": list(model.changes)} if model.changes else {}),
        "input": {"name": model.input.name, "shape": list(model.input.shape), "layout": model.layout},
        **({"further_inputs": list(model.input_names[1:])} if len(model.inputs) > 1 else {}),
        "scores": {"name": model.logits, "head": model.head, "classes": model.num_classes},
    }


def clean_set_section(clean_set: CleanSet, *, splits: bool = True) -> dict[str, Any]:
    """What the report says of the clean images; without `splits` where a command makes its own."""
    sizes = {"fit": len(clean_set.fit), "held_out": len(clean_set.held_out)} if splits else {}
    return {
        "images": len(clean_set),
        **sizes,
        "class_names": list(clean_set.class_names),
        "class_order": clean_set.class_order,
        "pseudo_labels": clean_set.pseudo_labels,
        "sha256": clean_set.sha256,
    }
