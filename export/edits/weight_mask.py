# SPDX-License-Identifier: Apache-2.0
"""Masked weights: ``initializer * mask`` (NFT, Karim et al., ECCV 2024, Sec. 4).

    weight ─▶ Conv     becomes     weight ─▶ Mul(mask) ─▶ Conv

ONNX Runtime folds the product of two constants at load, so it costs nothing at run time, the original
weight stays bit-exact in the file and the mask stays visible to an auditor. The form ``weights`` multiplies
the values instead, for those who want no extra node; then the original weight is no longer in the file.
Either way every consumer of the weight sees the product: a mask on a weight that two nodes share masks both.
"""

from __future__ import annotations

from typing import Any

from patcher.errors import UnsupportedGraphError
from patcher.export.surgery.constants import check_values, float_type, in_type
from patcher.export.surgery.surgery import OpenGraph, replace_consumers
from patcher.graph.flow import DataFlow
from patcher.model.model import Model
from patcher.patch import WeightMask


def add_weight_mask(graph: OpenGraph, model: Model, correction: WeightMask) -> None:
    """Multiply a weight with a mask; every consumer sees the product.

    Raises:
        InputError: The mask does not fit the weight.
        UnsupportedGraphError: The weight is no float constant of the main graph, or has no values to multiply.
    """
    name = correction.initializer
    check_values(correction.mask, model, name, "the mask")
    elem_type = float_type(model, name)
    weight = graph.tensor(name)
    if any(weight is tensor for tensor in graph.graph.outputs) or name in model.input_names:
        raise UnsupportedGraphError(f"weight {name!r} is an input or output of the graph and cannot be masked")
    if correction.form == "weights":
        _multiply(graph, model, correction, weight, elem_type)
        return
    mask = graph.constant(f"{name}_mask", in_type(correction.mask, elem_type))
    masked = graph.variable(f"{name}_masked", weight.dtype, weight.shape)
    first = replace_consumers(graph, weight, masked)
    graph.graph.nodes.insert(first, graph.node("Mul", f"{name}_Mul", [weight, mask], [masked]))


def _multiply(graph: OpenGraph, model: Model, correction: WeightMask, weight: Any, elem_type: int) -> None:
    """New values in place of an initializer's, or a new constant in place of another constant tensor."""
    name = correction.initializer
    values = DataFlow(model.proto.graph, model.input_names).value(name)
    if values is None:
        raise UnsupportedGraphError(f"weight {name!r} is computed in the graph and has no values; use --mask-form mask")
    product = in_type(values * in_type(correction.mask, elem_type), elem_type)
    if any(tensor.name == name for tensor in model.proto.graph.initializer):
        weight.values = product
        return
    replace_consumers(graph, weight, graph.constant(f"{name}_masked", product))
