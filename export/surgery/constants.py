# SPDX-License-Identifier: Apache-2.0
"""Values of a correction in the type and shape that a tensor of the model takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from patcher.errors import InputError, UnsupportedGraphError
from patcher.model.element_types import FLOATS
from patcher.model.model import Model


def float_type(model: Model, tensor: str) -> int:
    """Element type (``onnx.TensorProto``) of a float tensor of the model.

    Raises:
        UnsupportedGraphError: The tensor is not float, or its type is not known.
    """
    elem_type = model.elem_types.get(tensor)
    if elem_type not in FLOATS:
        found = "of unknown type" if elem_type is None else onnx.TensorProto.DataType.Name(elem_type)
        raise UnsupportedGraphError(f"tensor {tensor!r} is {found}; only float tensors can be patched")
    return elem_type


def in_type(values: NDArray[Any], elem_type: int) -> NDArray[Any]:
    """Values in a model's own element type; what is beyond its range becomes infinite."""
    with np.errstate(over="ignore"):
        return values.astype(onnx.helper.tensor_dtype_to_np_dtype(elem_type))


def check_values(values: NDArray[Any], model: Model, tensor: str, what: str) -> None:
    """Check that values broadcast to a tensor without changing its shape, and hold no NaN.

    Args:
        values: The correction's values.
        model: The model.
        tensor: The corrected tensor.
        what: Name of the values, for messages.

    Raises:
        InputError: They do not.
    """
    if np.isnan(values).any():
        raise InputError(f"{what} of {tensor!r} holds NaN; calibrate again")
    shape = model.shapes.get(tensor)
    if values.ndim == 0 or shape is None:
        return
    fits = values.ndim == len(shape) and all(
        length in (1, known) or known is None for length, known in zip(values.shape, shape, strict=True)
    )
    if not fits:
        raise InputError(
            f"{what} of {tensor!r} has shape {values.shape}, which does not fit the tensor's {shape}; "
            "the patch was made for another model"
        )
