# SPDX-License-Identifier: Apache-2.0
"""An affine map behind a tensor: ``scale * x + shift``, for layers whose normalisation was folded away.

    Conv ─▶ x ─▶ consumers     becomes     Conv ─▶ x_unscaled ─▶ Mul(scale) ─▶ Add(shift) ─▶ x ─▶ consumers

bfloat16 takes a detour through float32: ONNX Runtime has no bfloat16 ``Mul`` and ``Add`` on the CPU.
"""

from __future__ import annotations

import numpy as np
import onnx

from patcher.export.surgery.constants import check_values, float_type, in_type
from patcher.export.surgery.surgery import OpenGraph, split_tensor
from patcher.model.model import Model
from patcher.patch import Affine


def add_affine(graph: OpenGraph, model: Model, correction: Affine) -> None:
    """Put an affine map behind a tensor; every consumer sees the mapped value.

    Raises:
        InputError: Scale or shift does not fit the tensor.
        UnsupportedGraphError: The tensor is not a float tensor computed in the main graph.
    """
    name = correction.tensor
    check_values(correction.scale, model, name, "the scale")
    check_values(correction.shift, model, name, "the shift")
    elem_type = float_type(model, name)
    before, behind, position = split_tensor(graph, name, "unscaled")
    narrow = elem_type == onnx.TensorProto.BFLOAT16
    inner_type = int(onnx.TensorProto.FLOAT) if narrow else elem_type
    dtype = np.dtype(np.float32) if narrow else before.dtype
    source = graph.variable(f"{name}_float", dtype, before.shape) if narrow else before
    target = graph.variable(f"{name}_mapped", dtype, before.shape) if narrow else behind
    scaled = graph.variable(f"{name}_scaled", dtype, before.shape)
    scale = graph.constant(f"{name}_scale", in_type(correction.scale, inner_type))
    shift = graph.constant(f"{name}_shift", in_type(correction.shift, inner_type))
    nodes = [
        graph.node("Mul", f"{name}_Mul", [source, scale], [scaled]),
        graph.node("Add", f"{name}_Add", [scaled, shift], [target]),
    ]
    if narrow:
        nodes.insert(0, graph.node("Cast", f"{name}_ToFloat", [before], [source], to=inner_type))
        nodes.append(graph.node("Cast", f"{name}_ToBFloat16", [target], [behind], to=elem_type))
    graph.graph.nodes[position:position] = nodes
