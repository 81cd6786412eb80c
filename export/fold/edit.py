# SPDX-License-Identifier: Apache-2.0
"""Write a fold plan into a copy of the model: new constants, scalar clips, rescaled operands, nothing left over."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from patcher.export.fold.plan import FoldPlan
from patcher.export.fold.sites import BoundedSite
from patcher.export.surgery.names import Names
from patcher.graph.flow import STANDARD_DOMAINS, DataFlow

_GIVEN = ("Constant", "Identity", "Cast")


def apply_plan(
    hardened: onnx.ModelProto, flow: DataFlow, plan: FoldPlan, elem_types: dict[str, int]
) -> onnx.ModelProto:
    """Carry out a plan.

    Args:
        hardened: The model with its bounds as nodes; it is not modified.
        flow: Its data flow.
        plan: What to change.
        elem_types: Element type of the bounded tensors and of the rescaled operands.

    Returns:
        A new model.
    """
    return _Edit(hardened, flow, plan, elem_types).apply()


class _Edit:
    def __init__(self, hardened: onnx.ModelProto, flow: DataFlow, plan: FoldPlan, elem_types: dict[str, int]) -> None:
        self.result = onnx.ModelProto()
        self.result.CopyFrom(hardened)
        self.flow, self.plan, self.elem_types = flow, plan, elem_types
        self.names = Names(hardened)
        self.before: dict[int, list[onnx.NodeProto]] = {}

    def apply(self) -> onnx.ModelProto:
        graph = self.result.graph
        nodes: list[onnx.NodeProto | None] = list(graph.node)
        unread = {nodes[n].input[i] for n, i in self.plan.constants}  # type: ignore[union-attr]
        for (number, index), value in self.plan.constants.items():
            node = graph.node[number]
            node.input[index] = self._constant(f"{node.input[index]}_folded", value)
        for (number, operand), gain in self.plan.gains.items():
            self._rescale(number, operand, gain)
        for site in self.plan.sites:
            unread.update(nodes[site.node].input)  # type: ignore[union-attr]
            unread.update(nodes[site.activation].input)  # type: ignore[union-attr]
            nodes[site.activation], nodes[site.node] = self._clip(site), None
        kept = [item for number, node in enumerate(nodes) for item in (*self.before.get(number, ()), node) if item]
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
        del graph.node[:]
        graph.node.extend(copies)
        self._sweep(unread)
        return self.result

    def _clip(self, site: BoundedSite) -> onnx.NodeProto:
        """``Clip(0, 1)``, in the form that ONNX Runtime fuses."""
        elem_type = self.elem_types[site.tensor]
        if site.behind_join and elem_type == onnx.TensorProto.FLOAT:
            name = self.names.new(f"{site.tensor}_HardSigmoid")
            return helper.make_node("HardSigmoid", [site.source], [site.tensor], name=name, alpha=1.0, beta=0.0)
        dtype = helper.tensor_dtype_to_np_dtype(elem_type)
        limits = [self._constant(f"{site.tensor}_{end}", np.asarray(end, dtype)) for end in (0, 1)]
        return helper.make_node(
            "Clip", [site.source, *limits], [site.tensor], name=self.names.new(f"{site.tensor}_Clip")
        )

    def _rescale(self, number: int, operand: int, gain: NDArray[np.float64]) -> None:
        """Multiply an operand of a sum; float32 pictures by a BatchNormalization, which stays in blocked layout."""
        node, axis = self.result.graph.node[number], self.plan.axes[number, operand]
        source = node.input[operand]
        elem_type = self.elem_types[source]
        dtype = helper.tensor_dtype_to_np_dtype(elem_type)
        target, label = self.names.new(f"{source}_rescaled"), f"{source}_rescale"
        if elem_type == onnx.TensorProto.FLOAT and axis == 1:
            zeros, ones = np.zeros(len(gain), dtype), np.ones(len(gain), dtype)
            values = {"scale": gain.astype(dtype), "bias": zeros, "mean": zeros, "var": ones}
            inputs = [self._constant(f"{label}_{part}", value) for part, value in values.items()]
            name = self.names.new(f"{label}_BatchNormalization")
            new = helper.make_node("BatchNormalization", [source, *inputs], [target], name=name, epsilon=0.0)
        else:
            shape = [-1] + [1] * (self.plan.ranks[number, operand] - axis - 1)
            factor = self._constant(f"{label}_scale", gain.astype(dtype).reshape(shape))
            new = helper.make_node("Mul", [source, factor], [target], name=self.names.new(f"{label}_Mul"))
        self.before.setdefault(number, []).append(new)
        node.input[operand] = target

    def _constant(self, wanted: str, value: NDArray[np.generic]) -> str:
        name = self.names.new(wanted)
        # ascontiguousarray alone would turn a scalar into a vector.
        self.result.graph.initializer.append(
            numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
        )
        return name

    def _sweep(self, candidates: set[str]) -> None:
        """Drop constants that only the old form read, and what is said of tensors that are gone."""
        graph = self.result.graph
        inputs = {value.name for value in graph.input}
        while candidates:
            flow = DataFlow(graph, inputs)
            unread = {name for name in candidates if not flow.consumers(name) and name not in flow.outputs}
            candidates = set()
            for node in [node for node in graph.node if set(node.output) <= unread and _is_given(node)]:
                candidates.update(node.input)
                graph.node.remove(node)
            for tensor in [item for item in graph.initializer if item.name in unread - inputs]:
                graph.initializer.remove(tensor)
        known = {name for node in graph.node for name in node.output}
        known |= {item.name for item in graph.initializer}
        for value in [item for item in graph.value_info if item.name not in known]:
            graph.value_info.remove(value)


def _is_given(node: onnx.NodeProto) -> bool:
    return node.domain in STANDARD_DOMAINS and node.op_type in _GIVEN
