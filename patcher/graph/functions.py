# SPDX-License-Identifier: Apache-2.0
"""Replace function calls by the functions' bodies.

Two kinds: functions that the model brings along, and operators without a kernel whose schema defines
them by other operators. Tensors of the main graph keep their names; those inside get new ones.
"""

from __future__ import annotations

from typing import Any

import onnx
import onnx.inliner
from onnx import defs

from patcher.errors import UnsupportedGraphError
from patcher.graph.operators.registry import find_kernel
from patcher.model.subgraphs import walk

# The newest opset whose operators are supported; ONNX Runtime runs no newer ones.
NEWEST_OPSET = 26
# Bodies may call further functions; the standard's go two levels deep.
_MOST_LEVELS = 8


def expand_functions(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Inline the model's own functions, and the standard's for operators that have no kernel.

    Args:
        proto: The model; it is not modified.

    Returns:
        The model itself where nothing had to be expanded, else a copy.

    Raises:
        UnsupportedGraphError: The inliner cannot expand a function.
    """
    try:
        if proto.functions:
            proto = onnx.inliner.inline_local_functions(proto)
        for _ in range(_MOST_LEVELS):
            missing = _expandable(proto)
            if not missing:
                return proto
            # Bodies that depend on the context are chosen by the types of the inputs.
            typed = onnx.shape_inference.infer_shapes(_with_defaults(proto, set(missing)))
            declared = {value.name for value in typed.graph.input}
            typed.graph.value_info.extend(
                onnx.helper.make_tensor_value_info(item.name, item.data_type, item.dims)
                for item in typed.graph.initializer
                if item.name not in declared
            )
            proto = onnx.inliner.inline_selected_functions(typed, missing, inline_schema_functions=True)
    except (RuntimeError, ValueError, onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UnsupportedGraphError(f"the functions in the model cannot be expanded ({reason})") from error
    return proto


def _expandable(proto: onnx.ModelProto) -> list[tuple[str, str]]:
    """Operators of the model without a kernel that have a function body."""
    opsets = {"" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in proto.opset_import}
    found: dict[tuple[str, str], None] = {}
    for node in walk(proto.graph.node):
        domain = "" if node.domain == "ai.onnx" else node.domain
        if find_kernel(domain, node.op_type) is None and _has_body(domain, node.op_type, opsets.get(domain, 0)):
            found[node.domain, node.op_type] = None
    return list(found)


def _with_defaults(proto: onnx.ModelProto, calls: set[tuple[str, str]]) -> onnx.ModelProto:
    """A copy whose calls spell out the default attributes, which the inliner does not fill in."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    opsets = {entry.domain: entry.version for entry in copy.opset_import}
    for node in walk(copy.graph.node):
        if (node.domain, node.op_type) not in calls:
            continue
        schema = defs.get_schema(node.op_type, opsets.get(node.domain, 0), node.domain)
        given = {item.name for item in node.attribute}
        node.attribute.extend(
            value.default_value
            for name, value in schema.attributes.items()
            if name not in given and value.default_value.type != onnx.AttributeProto.UNDEFINED
        )
    return copy


def _has_body(domain: str, name: str, opset: int) -> bool:
    try:
        schema = defs.get_schema(name, opset, domain)
    except defs.SchemaError:
        return False
    if domain == "" and schema.since_version > NEWEST_OPSET:
        return False
    # Missing from the stubs that come with onnx.
    known: Any = schema
    return bool(known.has_function or known.has_context_dependent_function)
