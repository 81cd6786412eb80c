# SPDX-License-Identifier: Apache-2.0
"""How much memory the activations of one image take."""

from __future__ import annotations

import math

from patcher.model.element_types import FLOATS
from patcher.model.inference import TensorTypes, fill_open_shapes
from patcher.model.model import Model

_FLOAT_BYTES = 4


def activation_bytes(model: Model, shape: tuple[int, ...]) -> int:
    """Bytes in float32 of all tensors that one row passes through, weights left out.

    Args:
        model: The classifier.
        shape: Of one row as it travels, channels first, for a graph that leaves height and width open.
    """
    shapes, proto = model.shapes, model.proto
    if model.is_picture and model.image_size is None:
        size = shape[-2:]
        sides = (model.channels, *size) if model.layout == "NCHW" else (*size, model.channels)
        types = TensorTypes(dict(model.shapes), dict(model.elem_types))
        shapes = fill_open_shapes(types, proto, [{model.input.name: (model.batch or 1, *sides)}]).shapes
    constants = {tensor.name for tensor in proto.graph.initializer}
    constants |= {name for node in proto.graph.node if node.op_type == "Constant" for name in node.output}
    return sum(
        _FLOAT_BYTES * math.prod(int(length or 0) for length in shape[1:])
        for name, shape in shapes.items()
        if name not in constants and len(shape) > 1 and model.elem_types.get(name) in FLOATS
    )
