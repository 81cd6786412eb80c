# SPDX-License-Identifier: Apache-2.0
"""Does a file that a later tool rewrote compute what the original and its corrections do?

The reference is the file made again (`patcher.gate.reconstruction`). Both graphs get value numbers
(`patcher.gate.numbering`): an output with the reference's number is computed by the same operators from the same
constants, whatever the tensors are called. All outputs must have them, and nothing else may be computed. What stands
beside the graph must agree too: local functions, declared types, and the metadata that services read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import onnx

from patcher.errors import UnsupportedGraphError
from patcher.gate.numbering import Numbers
from patcher.model.inference import dimensions, infer_types
from patcher.two_files import GUARD_HASH_KEY

# Written anew with every file: the version of this project, and hashes of corrections that were rounded since.
FREE_KEYS = frozenset({"patcher.version", "patcher.patch_sha256", GUARD_HASH_KEY})
# ONNX Runtime takes session options from it where its environment says so.
_SESSION_KEY = "ort_config"
_OWN = "patcher."


def flow_fault(reference: onnx.ModelProto, hardened: onnx.ModelProto) -> str:
    """Where two models compute or say something else; empty where they do not."""
    numbers = Numbers()
    wanted, found = _names(numbers, reference), _names(numbers, hardened)
    return next(_faults(reference, hardened, wanted, found), "")


def _names(numbers: Numbers, proto: onnx.ModelProto) -> dict[str, int]:
    """Value numbers of the main graph's tensors by name."""
    names = numbers.initial(proto)
    for node in proto.graph.node:
        names.update(numbers.number_node(node, names))
    return names


def _faults(
    reference: onnx.ModelProto, hardened: onnx.ModelProto, wanted: Mapping[str, int], found: Mapping[str, int]
) -> Iterator[str]:
    for part in ("functions", "training_info"):
        ours, theirs = (
            [item.SerializeToString(deterministic=True) for item in getattr(m, part)] for m in (reference, hardened)
        )
        if ours != theirs:
            yield f"its {part} are others"
    names = [[value.name for value in model.graph.output] for model in (reference, hardened)]
    if names[0] != names[1]:
        yield f"outputs {', '.join(names[0])[:200]} expected, found {', '.join(names[1])[:200]}"
    for name in names[0]:
        if found.get(name) != wanted.get(name):
            yield f"output {name[:80]!r} is computed in another way"
    known = set(wanted.values())
    for node in hardened.graph.node:
        if strange := next((name for name in node.output if name and found[name] not in known), ""):
            yield f"{node.op_type} makes {strange[:80]!r}, which nothing in the original or its corrections does"
    yield from _type_faults(reference, hardened, wanted, found)
    yield from _metadata_faults(reference, hardened)


def _type_faults(
    reference: onnx.ModelProto, hardened: onnx.ModelProto, wanted: Mapping[str, int], found: Mapping[str, int]
) -> Iterator[str]:
    """Declared types that contradict those of the reference."""
    try:
        types = infer_types(reference)
    except UnsupportedGraphError:
        return
    shapes = {wanted[name]: shape for name, shape in types.shapes.items() if name in wanted}
    kinds = {wanted[name]: kind for name, kind in types.elem_types.items() if name in wanted}
    for value in (*hardened.graph.value_info, *hardened.graph.output):
        number, declared = found.get(value.name, -1), dimensions(value)
        shape = shapes.get(number)
        kind = value.type.tensor_type.elem_type
        other = kind != kinds.get(number, kind)
        if shape is not None and declared is not None:
            lengths = zip(shape, declared, strict=False)
            other |= len(shape) != len(declared)
            other |= any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in lengths)
        if other:
            yield f"{value.name[:80]!r} is declared as {kind} {list(declared or ())}, which it is not"


def _metadata_faults(reference: onnx.ModelProto, hardened: onnx.ModelProto) -> Iterator[str]:
    """Metadata of ours with other values, or a key that a runtime takes orders from."""
    entries = {entry.key: entry.value for entry in reference.metadata_props}
    counts = Counter(entry.key for entry in hardened.metadata_props)
    if twice := sorted(key for key, count in counts.items() if count > 1):
        yield f"metadata key {twice[0][:80]!r} twice"
    for entry in hardened.metadata_props:
        own = entry.key.startswith(_OWN) or entry.key == _SESSION_KEY
        if own and entry.key not in FREE_KEYS and entries.get(entry.key) != entry.value:
            yield f"metadata key {entry.key[:80]!r} says something else"
    if missing := sorted(key for key in entries if key.startswith(_OWN) and key not in counts):
        yield f"metadata key {missing[0]!r} is missing"
