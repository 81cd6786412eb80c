# SPDX-License-Identifier: Apache-2.0
"""Channels with bound 0: their weights are removed.

``min(relu(y), 0) = 0`` whatever y is, so y itself may be made 0: in the layer that computes it, or, behind a sum,
in every operand. That holds only where nothing else reads y.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from patcher.graph.flow import DataFlow, is_standard
from patcher.graph.scale_labels import ScaleFlow
from patcher.graph.scales import is_join

_PASSING = ("Relu", "LeakyRelu", "Identity", "Dropout", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")


@dataclass
class Silenced:
    """What to multiply with 0.

    Attributes:
        nodes: By node that has weights or adds a constant, 0 for each removed channel of its output, else 1.
        operands: By node and operand of a sum, the same.
    """

    nodes: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    operands: dict[tuple[int, int], NDArray[np.float64]] = field(default_factory=dict)

    def update(self, other: Silenced) -> None:
        """Take over what another one says."""
        for number, keep in other.nodes.items():
            self.nodes[number] = self.nodes.get(number, 1.0) * keep
        for key, keep in other.operands.items():
            self.operands[key] = self.operands.get(key, 1.0) * keep


def silence(flow: DataFlow, scales: ScaleFlow, tensor: str, keep: NDArray[np.float64]) -> Silenced | None:
    """Find out how channels of a tensor can be made 0.

    Args:
        flow: The graph's data flow.
        scales: Its labels.
        tensor: The tensor; only one node may read it.
        keep: ``(C,)``, 0 for channels to remove, else 1.

    Returns:
        What to do; ``None`` where it cannot be done.
    """
    numbers = {id(node): number for number, node in enumerate(flow.nodes)}
    found = Silenced()
    waiting = [tensor]
    while waiting:
        current = waiting.pop()
        node = flow.producer(current)
        if node is None or flow.sole_consumer(current) is None:
            return None
        number = numbers[id(node)]
        if number in scales.linear:
            found.nodes[number] = keep
        elif number in scales.offsets:
            found.nodes[number] = keep
            waiting += [name for name in node.input if flow.is_live(name)]
        elif is_join(node):
            for operand, name in enumerate(node.input):
                inner = silence(flow, scales, name, keep)
                if inner is None:
                    found.operands[number, operand] = keep
                else:
                    found.update(inner)
        elif is_standard(node, *_PASSING):
            waiting.append(node.input[0])
        else:
            return None
    return found
