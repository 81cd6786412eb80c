# SPDX-License-Identifier: Apache-2.0
"""Bounds that may be folded: ``Relu ─▶ Min(bound)`` in a model whose bounds are nodes.

``min(relu(y), b) = b * clip(y / b, 0, 1)`` for b > 0, and 0 for b = 0. The same holds for a ``Clip`` from zero to c
(ReLU6) with ``min(b, c)`` in place of b. It does not hold for a bound per element, whose factor a convolution cannot
undo, for a negative or infinite bound, nor for an activation that is not positively homogeneous.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from patcher.graph.flow import DataFlow, is_standard
from patcher.graph.scales import is_join

# Below it, a pre-activation of 128 divided by its bound leaves the range of half precision.
_SMALLEST_HALF_BOUND = 2.0**-9
_TYPES = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)


@dataclass(frozen=True)
class BoundedSite:
    """An activation with its bound.

    Attributes:
        tensor: The bounded tensor.
        source: What the activation reads.
        activation: Number of the activation's node.
        node: Number of the bound's node.
        bound: float64 ``(C,)`` along the channel axis, or ``(1,)`` for one bound.
        behind_join: Whether the activation reads a sum.
    """

    tensor: str
    source: str
    activation: int
    node: int
    bound: NDArray[np.float64]
    behind_join: bool

    @property
    def outputs(self) -> tuple[int, int]:
        """Numbers of both nodes."""
        return self.activation, self.node


def match_site(flow: DataFlow, tensor: str, elem_type: int, rank: int, axis: int) -> BoundedSite | str:
    """Find the activation and the bound behind it.

    Args:
        flow: The data flow of the model with the bounds as nodes.
        tensor: The bounded tensor.
        elem_type: Its element type.
        rank: Its number of axes.
        axis: Its channel axis.

    Returns:
        The site, or the reason why it cannot be folded.
    """
    if elem_type not in _TYPES:
        return f"{onnx.TensorProto.DataType.Name(elem_type)} is not folded"
    node = flow.producer(tensor)
    found = _bound(flow, node)
    if node is None or found is None:
        return "its bound is not a node of its own behind it"
    activation = flow.producer(found[0])
    ceiling = None if activation is None else _ceiling(flow, activation)
    if activation is None or ceiling is None or flow.sole_consumer(found[0]) is None:
        return f"{activation.op_type if activation else 'the input'} is not positively homogeneous"
    bound = _per_channel(found[1], rank, axis)
    if bound is None:
        return "one bound an element cannot be undone by the next layer"
    bound = np.minimum(bound, ceiling)
    if reason := _unsuitable(bound, elem_type):
        return reason
    source = next(name for name in activation.input if flow.is_live(name))
    before = flow.producer(source)
    numbers = {id(item): number for number, item in enumerate(flow.nodes)}
    return BoundedSite(
        tensor, source, numbers[id(activation)], numbers[id(node)], bound, before is not None and is_join(before)
    )


def _unsuitable(bound: NDArray[np.float64], elem_type: int) -> str | None:
    if not np.isfinite(bound).all():
        return "a bound is infinite"
    if (bound < 0).any():
        return "a bound is negative"
    if elem_type == onnx.TensorProto.FLOAT16 and ((bound > 0) & (bound < _SMALLEST_HALF_BOUND)).any():
        return f"a bound below {_SMALLEST_HALF_BOUND} would leave the range of half precision"
    return None


def _bound(flow: DataFlow, node: onnx.NodeProto | None) -> tuple[str, NDArray[Any]] | None:
    """The bounded tensor and the bound of ``Min(x, constant)`` or of ``Clip`` with an upper bound alone."""
    if node is None:
        return None
    if is_standard(node, "Min") and len(node.input) == 2:
        source, constant = node.input if flow.is_live(node.input[0]) else reversed(node.input)
    elif is_standard(node, "Clip") and len(node.input) == 3 and not node.input[1]:
        source, constant = node.input[0], node.input[2]
    else:
        return None
    value = flow.value(constant) if flow.is_constant(constant) else None
    return None if value is None else (source, value)


def _ceiling(flow: DataFlow, node: onnx.NodeProto) -> float | None:
    """Upper end of an activation that is ``min(max(y, 0), c)``; infinite for a Relu, ``None`` for others."""
    if is_standard(node, "Relu"):
        return float("inf")
    if is_standard(node, "Max") and len(node.input) == 2 and any(flow.scalar(name) == 0 for name in node.input):
        return float("inf")
    if is_standard(node, "Clip") and len(node.input) > 1 and node.input[1] and flow.scalar(node.input[1]) == 0:
        return flow.scalar(node.input[2]) if len(node.input) > 2 and node.input[2] else float("inf")
    return None


def _per_channel(bound: NDArray[Any], rank: int, axis: int) -> NDArray[np.float64] | None:
    """A bound as a vector along the channels; ``None`` where it varies along other axes."""
    if bound.ndim > rank:
        return None
    full = bound.reshape((1,) * (rank - bound.ndim) + bound.shape)
    if any(length != 1 for index, length in enumerate(full.shape) if index != axis):
        return None
    return full.reshape(-1).astype(np.float64)
