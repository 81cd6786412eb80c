# SPDX-License-Identifier: Apache-2.0
"""From an ONNX graph to a list of steps in an order that can be run.

Local functions are inlined, nodes sorted so that each comes after what it reads (the standard asks
for that order, not every exporter keeps it), attributes become Python values, and every operator is
looked up, so that a model which cannot be run is refused before anything is computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import onnx
import torch
from onnx import defs

import patcher.graph.operators  # noqa: F401 - registers the kernels
from patcher.errors import UnsupportedGraphError
from patcher.graph.carried import carried_tensors
from patcher.graph.functions import NEWEST_OPSET, expand_functions
from patcher.graph.host_values import read_tensor
from patcher.graph.operators.registry import check_signature, describe, find_kernel
from patcher.graph.steps import Block, Step

OPSETS = range(11, NEWEST_OPSET + 1)


def prepare(proto: onnx.ModelProto, compute: torch.dtype) -> Block:
    """Prepare a model's graph.

    Args:
        proto: The model; it is not modified.
        compute: Type of float computation.

    Raises:
        UnsupportedGraphError: An operator, attribute, opset or type that the interpreter lacks.
    """
    proto = expand_functions(proto)
    opsets = {"" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in proto.opset_import}
    return _prepare_graph(proto.graph, opsets, compute)


def _prepare_graph(graph: onnx.GraphProto, opsets: Mapping[str, int], compute: torch.dtype) -> Block:
    if graph.sparse_initializer:
        raise UnsupportedGraphError("sparse initializers are not supported; expected dense ones")
    initializers = {tensor.name: read_tensor(tensor, compute) for tensor in graph.initializer}
    steps = _sort([_prepare_node(node, opsets, compute) for node in graph.node])
    declared = [value.name for value in graph.input]
    outputs = tuple(value.name for value in graph.output)
    made = {name for step in steps for name in step.outputs} | set(declared) | set(initializers)
    wanted = [name for step in steps for name in step.reads] + list(outputs)
    quantized = [name for step in steps if step.operator == "QuantizeLinear" for name in step.outputs]
    carried = carried_tensors(steps, outputs, [*declared, *quantized])
    steps = tuple(replace(step, carried=not carried.isdisjoint(step.outputs)) for step in steps)
    return Block(
        inputs=tuple(name for name in declared if name not in initializers),
        outputs=outputs,
        initializers=initializers,
        steps=steps,
        captures=tuple(dict.fromkeys(name for name in wanted if name not in made)),
        overridable=frozenset(declared) & initializers.keys(),
        carried=carried & frozenset(declared),
    )


def _prepare_node(node: onnx.NodeProto, opsets: Mapping[str, int], compute: torch.dtype) -> Step:
    domain = "" if node.domain == "ai.onnx" else node.domain
    opset = opsets.get(domain, 0)
    where = describe(node.name or (node.output[0] if node.output else ""), node.op_type, domain, opset)
    kernel = find_kernel(domain, node.op_type)
    if kernel is None:
        raise UnsupportedGraphError(f"{where}: the interpreter does not know this operator")
    revision = _revision(node.op_type, domain, opset, where)
    attributes = {item.name: _attribute(item, opsets, compute, where) for item in node.attribute}
    check_signature(kernel, where, tuple(node.input), attributes, revision)
    blocks = [value for value in attributes.values() if isinstance(value, Block)]
    return Step(
        name=node.name or node.output[0],
        operator=node.op_type,
        inputs=tuple(node.input),
        outputs=tuple(node.output),
        captures=tuple(dict.fromkeys(name for block in blocks for name in block.captures)),
        attributes=attributes,
        kernel=kernel,
        opset=opset,
        where=where,
    )


def _revision(name: str, domain: str, opset: int, where: str) -> int:
    """The revision of an operator that a node means; refused where it is too new or too old to be known."""
    if domain == "":
        newest = max(defs.onnx_opset_version(), OPSETS[-1])
        if not OPSETS[0] <= opset <= newest:
            raise UnsupportedGraphError(f"{where}: opset {OPSETS[0]} to {OPSETS[-1]} expected; convert the model")
    try:
        revision: int = defs.get_schema(name, opset, domain).since_version
    except defs.SchemaError as error:
        raise UnsupportedGraphError(f"{where}: the standard has no such operator at this opset") from error
    if domain == "" and revision > OPSETS[-1]:
        raise UnsupportedGraphError(f"{where}: revisions up to opset {OPSETS[-1]} are supported, found {revision}")
    return revision


def _attribute(item: onnx.AttributeProto, opsets: Mapping[str, int], compute: torch.dtype, where: str) -> Any:
    if item.ref_attr_name:
        raise UnsupportedGraphError(f"{where}: attribute {item.name} refers to a function's attribute")
    if item.type == onnx.AttributeProto.TENSOR:
        return read_tensor(item.t, compute)
    if item.type == onnx.AttributeProto.GRAPH:
        return _prepare_graph(item.g, opsets, compute)
    if item.type == onnx.AttributeProto.STRING:
        return item.s.decode()
    if item.type == onnx.AttributeProto.STRINGS:
        return [text.decode() for text in item.strings]
    if item.type in (onnx.AttributeProto.INT, onnx.AttributeProto.FLOAT):
        return onnx.helper.get_attribute_value(item)
    if item.type in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS):
        return list(onnx.helper.get_attribute_value(item))
    kind = onnx.AttributeProto.AttributeType.Name(item.type)
    raise UnsupportedGraphError(f"{where}: attribute {item.name} of type {kind} is not supported")


def _sort(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Sort by dependency, keeping the given order where it is free (Kahn's algorithm over a scan)."""
    producers = {name: index for index, step in enumerate(steps) for name in step.outputs if name}
    state = [0] * len(steps)  # 0 not seen, 1 being expanded, 2 placed
    order: list[Step] = []
    for root in range(len(steps)):
        stack = [root]
        while stack:
            index = stack[-1]
            if state[index] == 2:
                stack.pop()
                continue
            missing = [producers[name] for name in steps[index].reads if name in producers]
            missing = [other for other in missing if state[other] != 2]
            if not missing:
                state[index] = 2
                order.append(steps[index])
                stack.pop()
                continue
            if any(state[other] == 1 for other in missing):
                raise UnsupportedGraphError(f"{steps[index].where}: the graph has a cycle")
            state[index] = 1
            stack.extend(reversed(missing))
    return tuple(order)


def depends_on(steps: Iterable[Step], sources: Iterable[str]) -> set[str]:
    """All tensors that are one of ``sources`` or computed from one."""
    reached = set(sources)
    for step in steps:
        if not reached.isdisjoint(step.reads):
            reached.update(name for name in step.outputs if name)
    return reached
