# SPDX-License-Identifier: Apache-2.0
"""A hardened graph as the readers see it: who makes a tensor, and the values of its constants."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from patcher.graph.flow import attribute


class ReadGraph:
    """Nodes by what they make and constants by name, of one graph or block.

    Args:
        nodes: In order.
        constants: Initializers.
    """

    def __init__(self, nodes: Iterable[onnx.NodeProto], constants: Iterable[onnx.TensorProto]) -> None:
        self.nodes = list(nodes)
        self.constants = {tensor.name: tensor for tensor in constants}
        self.producers = {name: node for node in self.nodes for name in node.output if name}

    def value(self, name: str) -> NDArray[Any] | None:
        """The value of an initializer or of a ``Constant`` node; ``None`` for anything else."""
        node = self.producers.get(name)
        tensor = self.constants.get(name)
        if tensor is None and node is not None and node.op_type == "Constant":
            tensor = attribute(node, "value")
        if not isinstance(tensor, onnx.TensorProto):
            return None
        try:
            found: NDArray[Any] = onnx.numpy_helper.to_array(tensor)
        except (ValueError, TypeError, KeyError):
            return None
        return found

    def floats(self, name: str) -> NDArray[np.float32] | None:
        """The value of a constant as float32; ``None`` where it is none or holds no numbers."""
        value = self.value(name)
        if value is None or value.dtype.kind not in "fV":
            return None
        with np.errstate(over="ignore"):
            return value.astype(np.float32)


def called(name: str, *wanted: str) -> bool:
    """Whether a name is one of those wanted, or one of them made unique by a number."""
    return any(re.fullmatch(rf"{re.escape(item)}(_\d+)?", name) for item in wanted)
