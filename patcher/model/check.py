# SPDX-License-Identifier: Apache-2.0
"""Checks that a model must pass before anything is done with it.

The checker alone is no gate (a per-channel ``Clip`` passes it and fails at run time), so the model is
also run once in ONNX Runtime, on zeros.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from patcher.errors import InputError, UnsupportedGraphError
from patcher.model.file import loadable
from patcher.model.inference import TensorTypes, agreed_types
from patcher.model.inputs import ModelInput, blank
from patcher.model.intake import CONVERTED_OPSET, OLDEST_OPSET
from patcher.model.size import check_size
from patcher.model.subgraphs import walk
from patcher.runtime import create_session, one_line, runtime_errors

MAX_OPSET = 26
_STANDARD_DOMAINS = ("", "ai.onnx")
_SIDE_LIMIT = 16384
_CONVERSION_TOLERANCE = 1e-4  # share of the largest value; kernels of other versions round otherwise


def check_structure(proto: onnx.ModelProto, source: bytes | Path, name: str) -> int:
    """Check opset, operator domains, weights and the rules of the ONNX standard.

    Args:
        proto: The model.
        source: The same model as :func:`patcher.model.file.loadable` gives it.
        name: Its name, for messages.

    Returns:
        The version of the standard operator set.

    Raises:
        InputError: The model breaks the standard, or a weight is NaN.
        UnsupportedGraphError: The opset is out of range, an operator is not of the standard, or there are
            more nodes than a classifier has.
    """
    check_size(proto, name)
    opset = _standard_opset(proto, name)
    _refuse_custom_operators(proto, name)
    try:
        onnx.checker.check_model(source if isinstance(source, bytes) else str(source))
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        raise InputError(f"{name}: not a valid ONNX model: {one_line(error)}") from error
    _refuse_training_mode(proto, name)
    _refuse_nan(proto, name)
    return opset


def check_run(
    source: bytes | Path, inputs: ModelInput, name: str
) -> tuple[dict[str, tuple[int, ...]], tuple[tuple[int, ...], ...]]:
    """Run the model once on a blank row, without graph optimisation.

    Args:
        source: The model as :func:`patcher.model.file.loadable` gives it.
        inputs: Its inputs.
        name: Its name, for messages.

    Returns:
        The shape of each output by name, and the shapes of the inputs that ran.

    Raises:
        InputError: An output is not finite.
        UnsupportedGraphError: ONNX Runtime cannot load or run the model.
    """
    try:
        session = create_session(source, optimization="disabled", threads=1)
    except InputError as error:
        raise UnsupportedGraphError(f"{name}: {error}") from error
    outputs, ran = _run_blank(session, inputs, name)
    for output, value in zip(session.get_outputs(), outputs, strict=True):
        if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
            what = "blank arrays" if inputs.layout == "array" else "a black image"
            raise InputError(f"{name}: output {output.name!r} is not finite on {what}; export the model again")
    return {output.name: value.shape for output, value in zip(session.get_outputs(), outputs, strict=True)}, ran


def check_conversion(before: onnx.ModelProto, after: onnx.ModelProto, inputs: ModelInput, name: str) -> None:
    """Check that a model converted to another opset answers random values as before.

    Raises:
        UnsupportedGraphError: It does not.
    """
    zeros, rng = blank(inputs.tensors, next(inputs.trials())), np.random.default_rng(0)
    integers = {tensor.name for tensor in inputs.tensors if tensor.is_integer}
    feed = {
        key: value if key in integers else rng.random(value.shape).astype(value.dtype) for key, value in zeros.items()
    }
    answers = []
    try:
        for proto in (before, after):
            with loadable(proto) as source:
                session = create_session(source, optimization="disabled", threads=1)
            answers.append(session.run(None, feed))
    except runtime_errors() as error:
        raise UnsupportedGraphError(f"{name}: ONNX Runtime cannot run the model: {one_line(error)}") from error
    for first, second in zip(*answers, strict=True):
        if not np.allclose(first, second, rtol=_CONVERSION_TOLERANCE, atol=_CONVERSION_TOLERANCE * np.abs(first).max()):
            raise UnsupportedGraphError(
                f"{name}: onnx.version_converter makes a model that answers differently; export it again at opset "
                f"{CONVERTED_OPSET} or higher"
            )


def observed_types(proto: onnx.ModelProto, inputs: ModelInput, types: TensorTypes) -> TensorTypes:
    """Fill in shapes that inference could not follow, by reading them off two real runs.

    The TorchScript exporter writes shape arithmetic (slices of shapes, integer divisions) that ONNX
    shape inference gives up on. Only tensors of the main graph with an unknown shape are read.

    Returns:
        The types with what both runs agree on; unchanged where the runs fail.
    """
    outputs = [name for node in proto.graph.node for name in node.output if name]
    unknown = [name for name in outputs if not _is_known(types.shapes.get(name), inputs)]
    if not unknown:
        return types
    probe = onnx.ModelProto()
    probe.CopyFrom(proto)
    listed = {value.name for value in probe.graph.output}
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in unknown if name not in listed)
    found = []
    failures: tuple[type[Exception], ...] = (InputError, *runtime_errors())
    try:
        with loadable(probe) as source:
            session = create_session(source, optimization="disabled", threads=1)
        for shapes in inputs.probes():
            found.append(_types_of(unknown, session.run(unknown, blank(inputs.tensors, shapes))))
    except failures:
        return types
    return agreed_types(types, found)


def _types_of(names: list[str], values: list[Any]) -> TensorTypes:
    arrays = {name: value for name, value in zip(names, values, strict=True) if isinstance(value, np.ndarray)}
    return TensorTypes(
        {name: value.shape for name, value in arrays.items()},
        {name: onnx.helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in arrays.items()},
    )


def _is_known(shape: tuple[int | None, ...] | None, inputs: ModelInput) -> bool:
    """Whether a shape has no open length but the batch's; of images of any size all sides are open."""
    sized = inputs.layout == "array" or inputs.size is not None
    return shape is not None and (not sized or None not in shape[1:])


def _run_blank(
    session: Any, inputs: ModelInput, name: str
) -> tuple[list[np.ndarray[Any, Any]], tuple[tuple[int, ...], ...]]:
    failure: Exception | None = None
    for shapes in inputs.trials():
        sides = [side for shape in shapes for side in shape[1:]]
        if max(sides) > _SIDE_LIMIT or min(sides) < 1:
            what = "arrays of 1 to" if inputs.layout == "array" else "images of 1 to"
            raise InputError(f"{name}: {what} {_SIDE_LIMIT} a side expected, found {list(shapes[0][1:])}")
        try:
            return session.run(None, blank(inputs.tensors, shapes)), shapes
        except runtime_errors() as error:
            failure = failure or error
    reason = one_line(failure) if failure else ""
    raise UnsupportedGraphError(f"{name}: ONNX Runtime cannot run the model: {reason}") from failure


def _standard_opset(proto: onnx.ModelProto, name: str) -> int:
    versions: list[int] = [entry.version for entry in proto.opset_import if entry.domain in _STANDARD_DOMAINS]
    if not versions:
        raise InputError(f"{name}: the model imports no standard operator set; export it again")
    if not CONVERTED_OPSET <= versions[0] <= MAX_OPSET:
        raise UnsupportedGraphError(
            f"{name}: opset {OLDEST_OPSET} to {MAX_OPSET} expected, found {versions[0]}; "
            "convert it with onnx.version_converter or export it again"
        )
    return versions[0]


def _refuse_custom_operators(proto: onnx.ModelProto, name: str) -> None:
    functions = {(function.domain, function.name) for function in proto.functions}
    custom = {
        f"{node.domain}:{node.op_type}"
        for node in all_nodes(proto)
        if node.domain not in _STANDARD_DOMAINS and (node.domain, node.op_type) not in functions
    }
    if custom:
        raise UnsupportedGraphError(
            f"{name}: operators outside of the ONNX standard: {', '.join(sorted(custom))}; "
            "export the model before any runtime-specific optimisation"
        )


def all_nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node of a model, in subgraphs and functions too."""
    for body in (proto.graph.node, *(function.node for function in proto.functions)):
        yield from walk(body)


def _refuse_training_mode(proto: onnx.ModelProto, name: str) -> None:
    modes = {item.name: item for item in proto.graph.initializer}
    modes |= {
        n.output[0]: n.attribute[0].t
        for n in proto.graph.node
        if n.op_type == "Constant" and n.attribute[0].HasField("t")
    }
    for node in all_nodes(proto):
        switched = any(item.name == "training_mode" and item.i for item in node.attribute)
        if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2] in modes:
            switched = bool(onnx.numpy_helper.to_array(modes[node.input[2]]).any())
        if switched and node.op_type in ("BatchNormalization", "Dropout"):
            raise UnsupportedGraphError(
                f"{name}: {node.op_type} {node.name!r} in training mode: answers depend on chance or on the other "
                "images of a batch; export the model in evaluation mode (model.eval())"
            )


def _refuse_nan(proto: onnx.ModelProto, name: str) -> None:
    for tensor in proto.graph.initializer:
        if tensor.data_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE):
            continue
        try:
            values = onnx.numpy_helper.to_array(tensor)
        except (ValueError, TypeError) as error:
            raise InputError(f"{name}: weight {tensor.name!r} is damaged: {one_line(error)}") from error
        if np.isnan(values).any():
            raise InputError(f"{name}: weight {tensor.name!r} holds NaN; the model is damaged, export it again")
