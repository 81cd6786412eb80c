# SPDX-License-Identifier: Apache-2.0
"""The standard's own node tests (they come with the onnx package) run through the interpreter.

Each test ends in one of four ways: ``passed``; ``refused`` (the interpreter says that it does not
support this, naming node, operator and opset); ``wrong``; ``crashed`` (any other failure, also one
that a kernel met unprepared). Only the first two may happen.

A *float-tensor test* has only dense tensors as inputs and outputs, none of strings or of complex, 8-bit
float or sub-byte types, and at least one float tensor.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from patcher.errors import PatcherError, UnsupportedGraphError
from patcher.graph.interpreter import Graph
from patcher.graph.preparation import OPSETS

Outcome = Literal["passed", "refused", "wrong", "crashed"]

_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
_PLAIN = _FLOATS | {
    TensorProto.BOOL,
    TensorProto.INT8,
    TensorProto.INT16,
    TensorProto.INT32,
    TensorProto.INT64,
    TensorProto.UINT8,
    TensorProto.UINT16,
    TensorProto.UINT32,
    TensorProto.UINT64,
}
# The interpreter computes 16-bit floats in float32; the expected values are rounded to 16 bits.
_TOLERANCES = {"float16": 2e-3, "bfloat16": 2e-2}


@dataclass(frozen=True)
class Verdict:
    """How one test ended.

    Attributes:
        test: Name of the test.
        operators: Operators of its model.
        float_tensor: Whether it is a float-tensor test.
        outcome: How it ended.
        reason: Why it did not pass.
    """

    test: str
    operators: tuple[str, ...]
    float_tensor: bool
    outcome: Outcome
    reason: str = ""


@lru_cache(maxsize=1)
def node_tests() -> tuple[Any, ...]:
    """All node tests of the installed onnx package."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tuple(load_model_tests(kind="node"))


def judge(test: Any) -> Verdict:
    """Run one node test."""
    model = _at_supported_opset(test.model)
    operators = tuple(sorted({node.op_type for node in model.graph.node}))
    outcome: Outcome = "passed"
    reason = ""
    try:
        for inputs, outputs in test.data_sets:
            reason = reason or _differences(model, inputs, outputs, test.rtol, test.atol)
        outcome = "wrong" if reason else "passed"
    except PatcherError as error:
        foreseen = isinstance(error, UnsupportedGraphError) and "cannot be computed (" not in str(error)
        outcome, reason = ("refused" if foreseen else "crashed"), str(error)
    except Exception as error:  # any other failure is a finding to report
        outcome, reason = "crashed", f"{type(error).__name__}: {error}"
    return Verdict(test.name, operators, is_float_tensor_test(model), outcome, reason)


def _at_supported_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its opset declared as the nearest supported one, where the checker accepts that.

    Otherwise operators that were revised lately (mostly to add types), or never since opset 7, would
    not be tested at all.
    """
    standard = [entry for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if all(entry.version in OPSETS for entry in standard):
        return model
    moved = onnx.ModelProto()
    moved.CopyFrom(model)
    for entry in moved.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = min(max(entry.version, OPSETS[0]), OPSETS[-1])
    try:
        onnx.checker.check_model(moved, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return model
    return moved


def is_float_tensor_test(model: onnx.ModelProto) -> bool:
    """Whether all inputs and outputs are plain dense tensors, at least one of them of floats."""
    values = [*model.graph.input, *model.graph.output]
    if not all(value.type.HasField("tensor_type") for value in values):
        return False
    kinds = {value.type.tensor_type.elem_type for value in values}
    return kinds <= _PLAIN and bool(kinds & _FLOATS)


def _differences(model: onnx.ModelProto, inputs: Any, outputs: Any, rtol: float, atol: float) -> str:
    """The first difference between the interpreter and the expected values, or an empty string."""
    graph = Graph(model)
    # The tests leave optional inputs out of the data; their names are empty in the node.
    feed = {value.name: _tensor(array) for value, array in zip(model.graph.input, inputs, strict=False)}
    names = [value.name for value in model.graph.output]
    for _ in range(2):  # the second run replays the first one's record
        results = graph.run(feed)
        for name, expected in zip(names, outputs, strict=True):
            expected = numpy_helper.to_array(expected) if isinstance(expected, onnx.TensorProto) else expected
            problem = _difference(results[name], np.asarray(expected), rtol, atol)
            if problem:
                return f"{name}: {problem}"
    return ""


def _tensor(array: Any) -> torch.Tensor:
    if isinstance(array, onnx.TensorProto):
        array = numpy_helper.to_array(array)
    if not isinstance(array, np.ndarray | np.generic):
        raise UnsupportedGraphError(f"a dense tensor expected, found {type(array).__name__}")
    array = np.asarray(array)
    if array.dtype.kind not in "fiub" or array.dtype.name.startswith("float8"):
        if array.dtype.name != "bfloat16":
            raise UnsupportedGraphError(f"element type {array.dtype} is not supported")
        array = array.astype(np.float32)
    return torch.from_numpy(np.array(array, order="C").reshape(array.shape))


def _difference(found: torch.Tensor, expected: NDArray[Any], rtol: float, atol: float) -> str:
    if tuple(found.shape) != expected.shape:
        return f"shape {list(expected.shape)} expected, found {list(found.shape)}"
    floating = expected.dtype.kind == "f" or expected.dtype.name == "bfloat16"
    if found.is_floating_point() != floating:
        return f"type {expected.dtype} expected, found {found.dtype}"
    values = found.numpy()
    if not floating:
        return "" if values.dtype == expected.dtype and np.array_equal(values, expected) else "values differ"
    tolerance = _TOLERANCES.get(expected.dtype.name)
    target = expected.astype(np.float64)
    if tolerance is not None:
        finite = np.abs(target[np.isfinite(target)])
        rtol, atol = tolerance, tolerance * float(finite.max(initial=1.0))
    # The reference's own float32 rounding: 1e-7 absolute is below it for values around 1.
    near = np.allclose(values, target, rtol=rtol, atol=max(atol, 1e-6), equal_nan=True)
    return "" if near else f"values differ by up to {np.nanmax(np.abs(values - target)):.3g}"


def judge_all() -> Iterator[Verdict]:
    """Run every node test."""
    for test in node_tests():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield judge(test)
