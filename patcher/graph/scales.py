# SPDX-License-Identifier: Apache-2.0
"""Which channels of a graph must share one positive factor, by data flow.

If a tensor is stored as ``x / s`` (s > 0, one number a channel), what of its neighbours? A label stands for
"the factor of this channel"; tensors that carry the same label are stored with the same factor.

- Linear operators with constant weights (Conv, ConvTranspose, Gemm, MatMul, BatchNormalization) undo any factor of
  their input and take any factor of their output: their output has new labels.
- Positively homogeneous operators that work channel by channel (Relu, pooling, reshapes, a product with a
  constant) pass the labels on; Concat strings them together, Split cuts them.
- A sum of tensors is a *join*: operands and result need one factor, or a rescaling of an operand.
- Everything else, and whatever leaves the graph, fixes the factor at 1 (label `UNSCALED`).

Residual streams are the labels that joins connect. Nothing here depends on names or node positions.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx

from patcher.graph.flow import DataFlow, is_standard
from patcher.graph.scale_labels import ScaleFlow
from patcher.graph.scale_rules import Shapes, Step
from patcher.model.subgraphs import reads


def scale_flow(flow: DataFlow, shapes: Shapes, passing: Collection[str] = ()) -> ScaleFlow:
    """Label every tensor of a graph.

    Args:
        flow: The graph's data flow.
        shapes: Inferred shapes, batch axis first.
        passing: Outputs of nodes that pass labels on although their operator in general does not
            (the bounds and activations that a caller is about to rewrite).

    Returns:
        The labels.
    """
    found = ScaleFlow()
    for number, node in enumerate(flow.nodes):
        if not any(flow.is_live(tensor) for tensor in node.output if tensor):
            continue
        if not Step(found, flow, shapes, number, node).label(node.output[0] in passing):
            for tensor in set(reads(node)):
                found.fix(tensor, f"{node.op_type} reads {tensor!r} behind it")
    for tensor in flow.outputs:
        found.fix(tensor, f"{tensor!r} is an output of the graph")
    return found


def is_join(node: onnx.NodeProto) -> bool:
    """Whether a node is a sum."""
    return is_standard(node, "Add", "Sub", "Sum")
