# SPDX-License-Identifier: Apache-2.0
"""What every report says of a model."""

from __future__ import annotations

from typing import Any

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
        "input": {"name": model.input.name, "shape": list(model.input.shape), "layout": model.layout},
        "scores": {"name": model.logits, "head": model.head, "classes": model.num_classes},
    }
