# SPDX-License-Identifier: Apache-2.0
"""Labels for the factors by which the channels of a tensor may be scaled; see `patcher.graph.scales`."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]

UNSCALED = 0


@dataclass(frozen=True)
class Channels:
    """The channel axis of a tensor and one label a channel."""

    axis: int
    labels: Labels


@dataclass(frozen=True)
class Join:
    """An operand of a sum: `node`'s input number `operand`, and the labels on both sides."""

    node: int
    operand: int
    inside: Labels
    outside: Labels


@dataclass
class ScaleFlow:
    """The labels of a graph.

    Attributes:
        channels: By tensor; a tensor that is not there is stored as it is.
        joins: Operands of sums, in graph order.
        offsets: Numbers of the nodes that add a constant to a labelled tensor.
        linear: Numbers of the nodes that undo and take factors.
        fixed: Why a label is fixed at 1.
    """

    channels: dict[str, Channels] = field(default_factory=dict)
    joins: list[Join] = field(default_factory=list)
    offsets: set[int] = field(default_factory=set)
    linear: set[int] = field(default_factory=set)
    fixed: dict[int, str] = field(default_factory=dict)
    count: int = 1

    def new(self, length: int) -> Labels:
        """Labels that nothing has yet."""
        self.count += length
        return np.arange(self.count - length, self.count, dtype=np.int64)

    def fix(self, tensor: str, reason: str) -> None:
        """Fix the factors of a tensor at 1."""
        found = self.channels.get(tensor)
        if found is not None:
            for label in np.unique(found.labels):
                self.fixed.setdefault(int(label), reason)
