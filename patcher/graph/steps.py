# SPDX-License-Identifier: Apache-2.0
"""A prepared graph: nodes with their kernels, in an order that runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

import patcher.graph.operators  # noqa: F401 - registers the kernels
from patcher.graph.operators.registry import Kernel


@dataclass(frozen=True, eq=False)
class Step:
    """One node, ready to run.

    Attributes:
        name: The node's name, or its first output where it has none.
        operator: Operator name.
        inputs: Tensor names; an empty one stands for an input left out.
        outputs: Tensor names; an empty one stands for an output nobody wants.
        captures: Tensors of the surrounding graph that the node's subgraphs read.
        attributes: Attribute values: numbers, strings, lists, tensors, `Block` for subgraphs.
        kernel: What computes it.
        opset: Version of the operator set of its domain.
        where: How error messages name the node.
        carried: Whether its integer results may be carried as floats.
    """

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    captures: tuple[str, ...]
    attributes: Mapping[str, Any]
    kernel: Kernel
    opset: int
    where: str
    carried: bool = False

    @property
    def reads(self) -> tuple[str, ...]:
        """All tensors the step depends on."""
        return tuple(name for name in self.inputs + self.captures if name)


@dataclass(frozen=True, eq=False)
class Block:
    """A graph or subgraph, ready to run.

    Attributes:
        inputs: Names of the inputs that have to be given.
        outputs: Names of the outputs.
        initializers: Constants as CPU tensors in their computed type.
        steps: Nodes in an order that can be run.
        captures: Tensors of the surrounding graph that are read.
        overridable: Initializers that are graph inputs too: their value is a default.
        carried: Integer inputs that may be given as floats, so that gradients pass.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    initializers: Mapping[str, torch.Tensor]
    steps: tuple[Step, ...]
    captures: tuple[str, ...]
    overridable: frozenset[str]
    carried: frozenset[str]
