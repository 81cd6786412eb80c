# SPDX-License-Identifier: Apache-2.0
"""Shapes and element types of every tensor, by ONNX shape inference.

Inference runs on a slim copy: large weights keep their dimensions and lose their values, so it costs
little and works beyond protobuf's 2 GB limit. Inference is never strict: what it cannot tell is absent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from patcher.errors import UnsupportedGraphError

# Shape arithmetic reads constants of at most a few entries; weights are larger.
_VALUE_LIMIT = 256
# 2^31 elements are 8 GiB in float32 for one image: no classifier does that, a hostile file does.
_ELEMENT_LIMIT = 2**31


@dataclass(frozen=True)
class TensorTypes:
    """What shape inference found out.

    Attributes:
        shapes: Shape by tensor name; ``None`` for an open length. Initializers included.
        elem_types: ``onnx.TensorProto`` element type by tensor name.
    """

    shapes: dict[str, tuple[int | None, ...]]
    elem_types: dict[str, int]


def infer_types(proto: onnx.ModelProto, name: str = "model") -> TensorTypes:
    """Infer shapes and element types of the main graph's tensors.

    Raises:
        UnsupportedGraphError: A tensor claims more than 2^31 elements, or the graph contradicts itself.
    """
    return _infer(_without_weights(proto), name)


def fill_open_shapes(
    types: TensorTypes, proto: onnx.ModelProto, inputs: Iterable[Mapping[str, tuple[int, ...]]]
) -> TensorTypes:
    """Fill in lengths that inference could not tell because they pass through shape arithmetic.

    Shapes are inferred again with the inputs fixed to each of a few shapes; a length is taken where
    all of them agree, and stays open where they differ.

    Args:
        types: What was inferred with the input as declared.
        proto: The model.
        inputs: Concrete shapes of the inputs by name, that differ in every open axis.
    """
    found: list[TensorTypes] = []
    for shapes in inputs:
        slim = _without_weights(proto)
        for value in slim.graph.input:
            if (name := value.name) in shapes:
                value.CopyFrom(onnx.helper.make_tensor_value_info(name, types.elem_types[name], shapes[name]))
        # Declared shapes speak of the open batch; without them inference follows the fixed one.
        del slim.graph.value_info[:]
        for value in slim.graph.output:
            value.type.tensor_type.ClearField("shape")
        try:
            found.append(_infer(slim, "model"))
        except UnsupportedGraphError:
            return types
    return agreed_types(types, found)


def agreed_types(types: TensorTypes, found: Sequence[TensorTypes]) -> TensorTypes:
    """Fill open lengths with those that all of several concrete runs or inferences agree on."""
    shapes = dict(types.shapes)
    elem_types = dict(types.elem_types)
    for tensor in set.intersection(*(set(item.shapes) for item in found)):
        candidates = [item.shapes[tensor] for item in found]
        if tensor in found[0].elem_types:
            elem_types.setdefault(tensor, found[0].elem_types[tensor])
        if len({len(candidate) for candidate in candidates}) == 1:
            agreed = tuple(a if len({a, *rest}) == 1 else None for a, *rest in zip(*candidates, strict=True))
            known = shapes.get(tensor, (None,) * len(agreed))
            if len(known) == len(agreed):
                shapes[tensor] = tuple(b if a is None else a for a, b in zip(known, agreed, strict=True))
    return TensorTypes(shapes, elem_types)


def _infer(slim: onnx.ModelProto, name: str) -> TensorTypes:
    declared = TensorTypes({}, {})
    for tensor in slim.graph.initializer:
        declared.shapes[tensor.name] = tuple(tensor.dims)
        declared.elem_types[tensor.name] = tensor.data_type
    types = TensorTypes(dict(declared.shapes), dict(declared.elem_types))
    _collect(declared, [*slim.graph.input, *slim.graph.value_info, *slim.graph.output])
    # Before inference too: it follows shape arithmetic, and writes out what is counted to a length.
    _refuse_giants(declared, name)
    try:
        graph = onnx.shape_inference.infer_shapes(slim, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError, MemoryError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UnsupportedGraphError(f"{name}: shape inference failed: {reason}") from error
    _collect(types, [*graph.input, *graph.value_info, *graph.output])
    _refuse_giants(types, name)
    return types


def _refuse_giants(types: TensorTypes, name: str) -> None:
    for tensor, shape in types.shapes.items():
        if math.prod(length or 1 for length in shape) > _ELEMENT_LIMIT:
            raise UnsupportedGraphError(f"{name}: tensor {tensor!r} claims shape {shape}, over 2^31 elements")


def dimensions(value: onnx.ValueInfoProto) -> tuple[int | str | None, ...] | None:
    """Shape of a value as declared: lengths, symbolic names, or ``None``; no shape at all is ``None``."""
    if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
        return None
    return tuple(
        dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or None)
        for dim in value.type.tensor_type.shape.dim
    )


def _collect(types: TensorTypes, values: Iterable[onnx.ValueInfoProto]) -> None:
    for value in values:
        if value.name in types.shapes:
            continue
        if value.type.HasField("tensor_type"):
            types.elem_types[value.name] = value.type.tensor_type.elem_type
        shape = dimensions(value)
        if shape is not None:
            types.shapes[value.name] = tuple(length if isinstance(length, int) else None for length in shape)


def _without_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a model; initializers beyond a few entries keep name, type and dimensions only."""
    slim = onnx.ModelProto()
    slim.ir_version = proto.ir_version
    slim.opset_import.extend(proto.opset_import)
    slim.functions.extend(proto.functions)
    graph = slim.graph
    graph.name = proto.graph.name
    graph.node.extend(proto.graph.node)
    graph.input.extend(proto.graph.input)
    graph.output.extend(proto.graph.output)
    graph.value_info.extend(proto.graph.value_info)
    for tensor in proto.graph.initializer:
        if math.prod(tensor.dims) <= _VALUE_LIMIT:
            graph.initializer.append(tensor)
        else:
            graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    return slim
