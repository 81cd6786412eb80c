# SPDX-License-Identifier: Apache-2.0
"""New running statistics for a BatchNormalization, as new constants under new names.

The old ones may be shared (the TorchScript exporter merges equal initializers through Identity), so
they are never overwritten; one that nobody reads any more is dropped.
"""

from __future__ import annotations

import numpy as np

from patcher.errors import InputError, UnsupportedGraphError
from patcher.export.surgery.constants import float_type, in_type
from patcher.export.surgery.surgery import OpenGraph
from patcher.model.model import Model
from patcher.patch import Normalization


def set_normalization(graph: OpenGraph, model: Model, correction: Normalization) -> None:
    """Replace mean and variance of a BatchNormalization.

    Raises:
        InputError: Their shapes differ from the old ones', or a variance is negative.
        UnsupportedGraphError: The tensor is not a BatchNormalization's output.
    """
    name = correction.tensor
    node = next((item for item in graph.graph.nodes if any(out.name == name for out in item.outputs)), None)
    if node is None or node.op != "BatchNormalization":
        raise UnsupportedGraphError(f"tensor {name!r} is not the output of a BatchNormalization of the main graph")
    for index, part, values in ((3, "mean", correction.mean), (4, "var", correction.var)):
        old = node.inputs[index]
        shape = model.shapes.get(old.name)
        if values.ndim != 1 or (shape is not None and values.shape != shape):
            raise InputError(f"{part} of {name!r} has shape {values.shape}, expected {shape}; the patch does not fit")
        if not np.isfinite(values).all() or (part == "var" and (values < 0).any()):
            raise InputError(f"{part} of {name!r} is not finite or negative; calibrate again")
        node.inputs[index] = graph.constant(f"{name}_{part}", in_type(values, float_type(model, old.name)))
