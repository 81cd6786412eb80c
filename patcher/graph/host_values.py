# SPDX-License-Identifier: Apache-2.0
"""Values on the host: shapes, axes and other numbers that steer the computation.

ONNX computes shapes with tensors. Here a value that depends only on shapes and constants stays a
NumPy array (the host lane); it is computed by the same kernels as everything else, on CPU tensors,
once per input shape. No device is ever waited for.

Types: float16 and bfloat16 are computed in the compute type (float32 unless told otherwise), since
calibration needs the range and precision; float64 stays float64. Integers and booleans keep their
type.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from patcher.errors import UnsupportedGraphError

HostArray = NDArray[Any]

_INTEGER_TYPES: dict[int, torch.dtype] = {
    TensorProto.BOOL: torch.bool,
    TensorProto.UINT8: torch.uint8,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT16: torch.uint16,
    TensorProto.UINT32: torch.uint32,
    TensorProto.UINT64: torch.uint64,
}
_COMPUTED_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def torch_type(element_type: int, compute: torch.dtype) -> torch.dtype:
    """The torch type in which an ONNX element type is computed.

    Args:
        element_type: ``onnx.TensorProto`` element type.
        compute: Type of float computation.

    Raises:
        UnsupportedGraphError: Strings, complex numbers, 8-bit floats and 4-bit integers.
    """
    if element_type in _COMPUTED_TYPES:
        return compute
    if element_type == TensorProto.DOUBLE:
        return torch.float64
    if element_type in _INTEGER_TYPES:
        return _INTEGER_TYPES[element_type]
    name = TensorProto.DataType.Name(element_type)
    raise UnsupportedGraphError(f"element type {name} is not supported; expected a float, integer or bool type")


def read_tensor(proto: onnx.TensorProto, compute: torch.dtype) -> torch.Tensor:
    """An ONNX tensor as a CPU tensor in its computed type.

    Raises:
        UnsupportedGraphError: The element type is not supported, or the data lies in another file.
    """
    kind = torch_type(proto.data_type, compute)
    if proto.data_location == TensorProto.EXTERNAL:
        raise UnsupportedGraphError(
            f"initializer {proto.name!r}: data inside the model expected, found external data; read it with read_model"
        )
    array = numpy_helper.to_array(proto)
    if proto.data_type == TensorProto.BFLOAT16:
        array = array.astype(np.float32)
    # A copy: to_array may hand out a read-only view of the model's bytes, which nobody may modify.
    return torch.from_numpy(np.array(array, order="C").reshape(array.shape)).to(kind)


def to_host(value: torch.Tensor) -> HostArray:
    """A tensor as an array on the host."""
    array: HostArray = value.detach().cpu().numpy()
    return array


def to_tensor(value: HostArray, device: torch.device | str, compute: torch.dtype) -> torch.Tensor:
    """A host value as a tensor on a device; float32 becomes the compute type."""
    tensor = torch.from_numpy(np.ascontiguousarray(value).reshape(value.shape))
    return tensor.to(device, compute if tensor.dtype == torch.float32 else None)


def to_python(value: torch.Tensor | HostArray) -> Any:
    """A value as a Python number (rank 0) or nested list."""
    return value.tolist()
