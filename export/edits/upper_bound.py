# SPDX-License-Identifier: Apache-2.0
"""Upper bounds behind activations: ``min(x, bound)`` (UNIT, Cheng et al., ECCV 2024, Sec. 4).

    Relu ─▶ x ─▶ consumers     becomes     Relu ─▶ x_unbounded ─▶ Min(bound) ─▶ x ─▶ consumers

A bound per channel or element is ``Min`` with a constant; one bound for the whole tensor is ``Clip``.
ONNX ``Clip`` takes scalar bounds only: a per-channel ``max`` passes the checker and fails at run time.
ONNX Runtime has no float64 ``Clip`` before opset 12 and no bfloat16 ``Min`` or ``Clip`` on the CPU, so
those take ``Min`` and a detour through float32, which is exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from patcher.errors import InputError
from patcher.export.surgery.constants import check_values, float_type, in_type
from patcher.export.surgery.surgery import OpenGraph, split_tensor
from patcher.model.model import Model
from patcher.patch import UpperBound

# Below 0 a bound would turn such an activation into a constant.
_NEVER_NEGATIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softplus")


def add_upper_bound(graph: OpenGraph, model: Model, correction: UpperBound) -> None:
    """Put an upper bound behind a tensor; every consumer sees the bounded value.

    Args:
        graph: The open graph; edited in place.
        model: The model it came from.
        correction: The bound.

    Raises:
        InputError: The bound does not fit the tensor.
        UnsupportedGraphError: The tensor is not a float tensor computed in the main graph.
    """
    name, bound = correction.tensor, correction.bound
    check_values(bound, model, name, "the upper bound")
    elem_type = float_type(model, name)
    before, behind, position = split_tensor(graph, name, "unbounded")
    if (bound < (0 if before.inputs and before.inputs[0].op in _NEVER_NEGATIVE else -np.finfo(np.float32).max)).any():
        raise InputError(f"the upper bound of {name!r} is below every value it has; calibrate again")
    if elem_type == onnx.TensorProto.BFLOAT16:
        # Rounded to bfloat16 first: the constant must be a value the tensor can take.
        rounded = in_type(bound, elem_type).astype(np.float32)
        nodes = _through_float(graph, name, before, behind, rounded)
    else:
        scalar_clip = bound.ndim == 0 and (model.opset >= 12 or elem_type != onnx.TensorProto.DOUBLE)
        nodes = [_bound_node(graph, name, before, behind, in_type(bound, elem_type), clip=scalar_clip)]
    graph.graph.nodes[position:position] = nodes


def _bound_node(graph: OpenGraph, name: str, before: Any, behind: Any, bound: Any, *, clip: bool) -> Any:
    constant = graph.constant(f"{name}_upper_bound", bound)
    if clip:
        # The empty second input leaves the lower side open.
        return graph.node("Clip", f"{name}_Clip", [before, graph.absent(), constant], [behind])
    return graph.node("Min", f"{name}_Min", [before, constant], [behind])


def _through_float(graph: OpenGraph, name: str, before: Any, behind: Any, bound: Any) -> list[Any]:
    wide = graph.variable(f"{name}_float", np.dtype(np.float32), before.shape)
    bounded = graph.variable(f"{name}_bounded", np.dtype(np.float32), before.shape)
    return [
        graph.node("Cast", f"{name}_ToFloat", [before], [wide], to=int(onnx.TensorProto.FLOAT)),
        _bound_node(graph, name, wide, bounded, bound, clip=bound.ndim == 0),
        graph.node("Cast", f"{name}_ToBFloat16", [bounded], [behind], to=int(onnx.TensorProto.BFLOAT16)),
    ]
