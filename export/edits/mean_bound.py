# SPDX-License-Identifier: Apache-2.0
"""Bounds on the mean of a channel: ``x * bound / max(mean of x, bound)`` behind an activation.

    Relu ─▶ x ─▶ consumers     becomes     Relu ─▶ x_unlimited ─┬─────────────────────────────────▶ Mul ─▶ x
                                                                └▶ pool ─▶ Max(bound) ─▶ bound / · ─┘

The mean is over the places of each picture, so every picture is decided by itself. Where it does not exceed the bound
the factor is one exactly. The map is read twice and written once; the factor is one number a channel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from patcher.errors import InputError, UnsupportedGraphError
from patcher.export.surgery.constants import check_values, float_type, in_type
from patcher.export.surgery.surgery import OpenGraph, split_tensor
from patcher.model.model import Model
from patcher.patch import MeanBound

_AXES_AS_INPUT = 18  # of ReduceMean


def add_mean_bound(graph: OpenGraph, model: Model, correction: MeanBound) -> None:
    """Put a bound on the mean behind a tensor; every consumer sees the bounded value.

    Args:
        graph: The open graph; edited in place.
        model: The model it came from.
        correction: The bound.

    Raises:
        InputError: The bound does not fit the tensor.
        UnsupportedGraphError: The tensor is no float tensor computed in the main graph, or is bfloat16.
    """
    name, bound = correction.tensor, correction.bound
    check_values(bound, model, name, "the bound on the mean")
    elem_type = float_type(model, name)
    if elem_type == onnx.TensorProto.BFLOAT16:
        raise UnsupportedGraphError(f"tensor {name!r} is bfloat16, whose means cannot be bounded")
    values = in_type(bound, elem_type)
    axes = [axis for axis, length in enumerate(bound.shape) if axis and length == 1]
    if not axes or not (np.isfinite(values).all() and (values > 0).all()):
        raise InputError(f"the bound on the mean of {name!r}: positive numbers, one a channel, expected")
    before, behind, position = split_tensor(graph, name, "unlimited")
    constant = graph.constant(f"{name}_mean_bound", values)
    mean, least, factor = (graph.variable(f"{name}_{part}", before.dtype, None) for part in ("mean", "least", "factor"))
    graph.graph.nodes[position:position] = [
        _pool(graph, model, name, before, mean, axes),
        graph.node("Max", f"{name}_Max", [mean, constant], [least]),
        graph.node("Div", f"{name}_Div", [constant, least], [factor]),
        graph.node("Mul", f"{name}_Limit", [before, factor], [behind]),
    ]


def _pool(graph: OpenGraph, model: Model, name: str, before: Any, mean: Any, axes: list[int]) -> Any:
    if axes == [2, 3]:
        return graph.node("GlobalAveragePool", f"{name}_Pool", [before], [mean])
    if model.opset >= _AXES_AS_INPUT:
        constant = graph.constant(f"{name}_axes", np.array(axes, np.int64))
        return graph.node("ReduceMean", f"{name}_Pool", [before, constant], [mean], keepdims=1)
    return graph.node("ReduceMean", f"{name}_Pool", [before], [mean], axes=axes, keepdims=1)
