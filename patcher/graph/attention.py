# SPDX-License-Identifier: Apache-2.0
"""The output of each attention layer: what UNIT clips on transformers (Cheng et al., ECCV 2024).

An attention layer is ``softmax(scores) @ values``, or one Attention operator, followed by shape
operators, the output projection and its bias. The site is the last tensor of that chain, before the
residual sum, where the channels are still one axis.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from patcher.graph.flow import DataFlow, is_standard

# Operators between the softmax and the product: type changes and guards against empty rows.
_BETWEEN = ("Identity", "Cast", "Dropout", "Where", "Reshape", "Transpose", "Unsqueeze", "Squeeze", "Expand")
_SHAPE_OPERATORS = ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Cast", "Dropout")
_LINEAR = ("MatMul", "Gemm", "Conv")


def attention_outputs(flow: DataFlow) -> Iterator[tuple[str, ...]]:
    """Chains of tensors from each attention layer's product to its output.

    Yields:
        Tensor names in order: the product, what shape operators, the projection and its bias make of
        it. Whoever asks takes the last one that suits.
    """
    for node in flow.nodes:
        if _is_attention(node, flow):
            yield tuple(_chain(node.output[0], flow))


def _is_attention(node: onnx.NodeProto, flow: DataFlow) -> bool:
    if is_standard(node, "Attention"):
        return True
    if not is_standard(node, "MatMul", "Einsum") or len(node.input) != 2:
        return False
    if not all(flow.is_live(tensor) for tensor in node.input):
        return False
    return any(_from_softmax(tensor, flow) for tensor in node.input)


def _from_softmax(tensor: str, flow: DataFlow) -> bool:
    for _ in range(8):
        node = flow.producer(tensor)
        if node is None:
            return False
        if is_standard(node, "Softmax"):
            return True
        if not is_standard(node, *_BETWEEN):
            return False
        # Where(condition, replacement, weights): the varying branch goes on.
        candidates = node.input[1:] if node.op_type == "Where" else node.input[:1]
        varying = [name for name in candidates if flow.is_live(name)]
        if not varying:
            return False
        tensor = varying[-1]
    return False


def _chain(tensor: str, flow: DataFlow) -> Iterator[str]:
    """Follow shape operators, one linear operator and one bias, in this order."""
    yield tensor
    projected = biased = False
    while (node := flow.sole_consumer(tensor)) is not None:
        others = [name for name in node.input if name != tensor]
        if is_standard(node, *_LINEAR) and not projected and all(flow.is_constant(name) for name in others if name):
            projected, biased = True, node.op_type != "MatMul" and len(node.input) > 2
        elif is_standard(node, "Add") and projected and not biased and all(map(flow.is_constant, others)):
            biased = True
        elif not is_standard(node, *_SHAPE_OPERATORS):
            return
        tensor = node.output[0]
        yield tensor
