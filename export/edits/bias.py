# SPDX-License-Identifier: Apache-2.0
"""A shifted bias: ``bias + shift`` of the operator that makes a tensor (centred masks of NFT).

    bias ─▶ Conv     becomes     bias ─▶ Add(shift) ─▶ Conv          (an absent bias becomes the shift)

ONNX Runtime folds the sum of two constants at load, so it costs nothing at run time, and the original bias
stays bit-exact in the file. A MatMul has no bias: there the shift is an Add behind it. A Gemm multiplies its
bias with ``beta``, so the shift is divided by it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from patcher.errors import UnsupportedGraphError
from patcher.export.surgery.constants import check_values, float_type, in_type
from patcher.export.surgery.surgery import OpenGraph, split_tensor
from patcher.model.model import Model
from patcher.patch import Bias

_BIAS_INPUT = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2, "BatchNormalization": 2}


def add_bias(graph: OpenGraph, model: Model, correction: Bias) -> None:
    """Shift the bias of the operator that makes a tensor.

    Raises:
        InputError: The shift does not fit the tensor.
        UnsupportedGraphError: No linear operator or BatchNormalization of the main graph makes the tensor.
    """
    name = correction.tensor
    check_values(correction.shift, model, name, "the shift")
    elem_type = float_type(model, name)
    node = next((item for item in graph.graph.nodes if any(out.name == name for out in item.outputs)), None)
    if node is not None and node.op == "MatMul":
        before, behind, position = split_tensor(graph, name, "unshifted")
        shift = graph.constant(f"{name}_shift", in_type(correction.shift, elem_type))
        graph.graph.nodes.insert(position, graph.node("Add", f"{name}_Add", [before, shift], [behind]))
        return
    if node is None or node.op not in _BIAS_INPUT:
        raise UnsupportedGraphError(f"tensor {name!r} is not the output of an operator with a bias in the main graph")
    _shift(graph, node, correction.shift.reshape(-1), elem_type)


def _shift(graph: OpenGraph, node: Any, shift: NDArray[np.float32], elem_type: int) -> None:
    index, name = _BIAS_INPUT[node.op], node.outputs[0].name
    factor = float(node.attrs.get("beta", 1.0)) if node.op == "Gemm" else 1.0
    unused = factor == 0  # a Gemm that takes its bias 0 times
    if unused:
        node.attrs["beta"] = factor = 1.0
    constant = graph.constant(f"{name}_shift", in_type(shift / np.float32(factor), elem_type))
    if len(node.inputs) <= index:
        node.inputs.append(constant)
    elif unused or not node.inputs[index].name:
        node.inputs[index] = constant
    else:
        bias = node.inputs[index]
        shifted = graph.variable(f"{name}_shifted_bias", bias.dtype, constant.shape)
        node.inputs[index] = shifted
        addition = graph.node("Add", f"{name}_shift_Add", [bias, constant], [shifted])
        graph.graph.nodes.insert(next(i for i, item in enumerate(graph.graph.nodes) if item is node), addition)
