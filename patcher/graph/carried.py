# SPDX-License-Identifier: Apache-2.0
"""Integers that may be carried as floats, so that gradients pass.

A quantised tensor, or a uint8 image, ends differentiation although the next operators only move its
values and turn them back into floats. Where that is all that happens to an integer tensor, it can be
carried as floats which hold integers: the values are the same and the gradient passes. Where anything
else reads it (integer arithmetic wraps around and truncates), it stays an integer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from patcher.model.element_types import FLOATS

if TYPE_CHECKING:
    from patcher.graph.steps import Step

# Operators that return the values of their first input in other places.
_MOVING = frozenset(
    {
        "DepthToSpace",
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "GatherND",
        "Identity",
        "MaxPool",
        "Reshape",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    }
)


def carried_tensors(steps: Sequence[Step], outputs: Iterable[str], sources: Iterable[str]) -> frozenset[str]:
    """Which of ``sources``, and of the tensors moved from them, may be carried as floats.

    Args:
        steps: Nodes in order.
        outputs: The graph's outputs, which keep their type.
        sources: Integer tensors to decide on.

    Returns:
        Names of sources that only moving operators, and at last a conversion to floats, read.
    """
    unsafe = set(outputs)
    for step in reversed(steps):
        unsafe.update(step.captures)
        for position, name in enumerate(step.inputs):
            if position > 0 or not _keeps_values(step, unsafe):
                unsafe.add(name)
    return frozenset(sources) - unsafe


def _keeps_values(step: Step, unsafe: set[str]) -> bool:
    if step.operator in ("DequantizeLinear", "Shape", "Size"):
        return True
    if step.operator == "Cast":
        return step.attributes.get("to") in FLOATS
    return step.operator in _MOVING and unsafe.isdisjoint(step.outputs)
