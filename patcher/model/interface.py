# SPDX-License-Identifier: Apache-2.0
"""A classifier's outputs as declared; inputs are in `patcher.model.inputs`, the scores in `patcher.model.scores`."""

from __future__ import annotations

import onnx

from patcher.model.inputs import TensorType, tensor_type


def graph_outputs(proto: onnx.ModelProto) -> tuple[TensorType, ...]:
    """All graph outputs in order, as declared."""
    return tuple(tensor_type(value) for value in proto.graph.output)
