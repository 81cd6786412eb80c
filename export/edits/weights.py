# SPDX-License-Identifier: Apache-2.0
"""New values for an initializer, under its own name (NONE, Wang et al., NeurIPS 2022)."""

from __future__ import annotations

import math

import numpy as np

from patcher.errors import InputError, UnsupportedGraphError
from patcher.export.surgery.constants import float_type, in_type
from patcher.export.surgery.surgery import OpenGraph
from patcher.model.model import Model
from patcher.patch import Weights


def set_weights(graph: OpenGraph, model: Model, correction: Weights) -> None:
    """Replace the values of an initializer; nodes and names stay.

    Raises:
        InputError: The new value has another shape, or is not finite.
        UnsupportedGraphError: The main graph has no such float initializer.
    """
    name, value = correction.initializer, correction.value
    tensor = next((item for item in model.proto.graph.initializer if item.name == name), None)
    if tensor is None:
        raise UnsupportedGraphError(f"the main graph has no initializer {name!r}")
    if value.shape != tuple(tensor.dims) or value.size != math.prod(tensor.dims):
        raise InputError(f"the value of {name!r} has shape {value.shape}, expected {tuple(tensor.dims)}")
    if not np.isfinite(value).all():
        raise InputError(f"the value of {name!r} is not finite; calibrate again")
    graph.tensor(name).values = in_type(value, float_type(model, name))
