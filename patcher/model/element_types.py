# SPDX-License-Identifier: Apache-2.0
"""Element types that hold real numbers."""

from __future__ import annotations

import onnx

FLOATS = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
    onnx.TensorProto.DOUBLE,
)
