# SPDX-License-Identifier: Apache-2.0
"""What may happen to a hardened file on its way to production."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper


def bounds_removed(model: onnx.ModelProto) -> None:
    """Take every bound out by hand; the metadata still says hardened."""
    added = [node for node in model.graph.node if node.op_type == "Min"]
    assert added
    for node in added:
        for producer in model.graph.node:
            for index, name in enumerate(producer.output):
                if name == node.input[0]:
                    producer.output[index] = node.output[0]
        model.graph.node.remove(node)


def one_weight_changed(model: onnx.ModelProto) -> None:
    """Change one number of one convolution."""
    name = next(node.input[1] for node in model.graph.node if node.op_type == "Conv")
    tensor = next(item for item in model.graph.initializer if item.name == name)
    values = numpy_helper.to_array(tensor).copy()
    values.flat[0] += 1e-3
    tensor.CopyFrom(numpy_helper.from_array(values, name))


def output_inserted_first(model: onnx.ModelProto) -> None:
    """Put another tensor before the class scores."""
    scores = model.graph.output[0]
    model.graph.node.append(helper.make_node("Identity", [scores.name], ["again"]))
    value = onnx.ValueInfoProto()
    value.CopyFrom(scores)
    value.name = "again"
    model.graph.output.insert(0, value)


def labels_swapped(model: onnx.ModelProto) -> None:
    """Turn the order of the classes around in the last layer."""
    last = next(node for node in reversed(model.graph.node) if node.op_type in ("Gemm", "MatMul"))
    for tensor in model.graph.initializer:
        if tensor.name in last.input[1:]:
            values = numpy_helper.to_array(tensor)
            axis = 0 if values.ndim == 1 or any(a.name == "transB" and a.i for a in last.attribute) else 1
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(np.flip(values, axis)), tensor.name))


def source_forged(model: onnx.ModelProto) -> None:
    """Let the metadata name another source."""
    entry = next(entry for entry in model.metadata_props if entry.key == "patcher.source_sha256")
    entry.value = "0" * 64


def quantized(source: Path, target: Path, feeds: list[dict[str, NDArray[np.float32]]]) -> None:
    """Quantise with ONNX Runtime's defaults, which remove what they take for superfluous."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = iter(feeds)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            return next(self.feeds, None)

    quantize_static(str(source), str(target), Reader())
