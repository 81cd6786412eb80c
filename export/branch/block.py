# SPDX-License-Identifier: Apache-2.0
"""Nodes and constants in the making, for a part of a graph that is added as a whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from patcher.export.surgery.names import Names


@dataclass
class Block:
    """Nodes and constants in the making, for the main graph or a subgraph.

    Attributes:
        names: Gives unique names.
        nodes: In order.
        initializers: Constants that the nodes read.
    """

    names: Names
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)

    def constant(self, wanted: str, values: NDArray[Any]) -> str:
        """Add a constant; returns its name."""
        name = self.names.new(wanted)
        self.initializers.append(onnx.numpy_helper.from_array(np.ascontiguousarray(values).reshape(values.shape), name))
        return name

    def node(self, operator: str, inputs: list[str], wanted: str, **attributes: Any) -> str:
        """Add a node with one output; returns the output's name."""
        output = self.names.new(wanted)
        self.nodes.append(onnx.helper.make_node(operator, inputs, [output], name=f"{output}_node", **attributes))
        return output
