# SPDX-License-Identifier: Apache-2.0
"""Is the graph the original's plus what the method is known to add, at the places where it adds it?

Proof is by reconstruction; where it fails, the graphs are compared to say what is wrong with them.
`patcher.gate.methods` says what a method may add.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx

from patcher.errors import UnsupportedGraphError
from patcher.gate.check import Check, decided
from patcher.gate.difference import Addition, ChangedWeight, Difference, compare_graphs
from patcher.gate.methods import Changes, changes_of
from patcher.gate.reconstruction import Reconstruction
from patcher.gate.subject import Subject
from patcher.graph.sites import find_sites

_DETOUR = (onnx.TensorProto.FLOAT, onnx.TensorProto.BFLOAT16)
_STATISTICS = (3, 4)
_SHOWN = 5
_LISTED_IN_FULL = 100


def structure_checks(subject: Subject, again: Reconstruction) -> list[Check]:
    """The checks ``graph`` and ``weights``.

    Args:
        subject: The two models.
        again: The file made again: where it computes the same, nothing is left to compare; where a patch file was
            given, the file is compared with what that makes.
    """
    method = subject.provenance.method if subject.provenance else ""
    if again.proven:
        return _proven(subject, again, method)
    given = again.model if subject.given.patch is not None else None
    allowed = (changes_of(method) if given is None else None) or Changes()
    reference = given if given is not None else subject.prepared.model.proto
    difference = compare_graphs(reference, subject.hardened.proto)
    name = method if given is None else "the patch"
    return [_graph_check(subject, difference, allowed, name), _weights_check(difference, allowed)]


def _proven(subject: Subject, again: Reconstruction, method: str) -> list[Check]:
    graphs = subject.hardened.proto.graph, subject.prepared.model.proto.graph
    after, before = (Counter(node.op_type for node in graph.node) for graph in graphs)
    operators = after - before
    values = [str(getattr(item, "initializer", "")) for item in again.corrections]
    details = {"method": method, "added": dict(sorted(operators.items())), "unexpected": 0, "at_fault": []}
    details["tensors"] = sorted({str(getattr(item, "tensor", "")) for item in again.corrections} - {""})
    return [
        decided("graph", True, "the original and its corrections, and nothing else", details=details),
        decided(
            "weights",
            True,
            "every value is the original's or a correction's",
            details={"changed": sorted({name for name in values if name})},
        ),
    ]


def _graph_check(subject: Subject, difference: Difference, allowed: Changes, method: str) -> Check:
    known = method if changes_of(method) or method == "the patch" else "no known method"
    sites = _sites(subject)
    misplaced = [item for item in difference.additions if not _fits(item, allowed, sites, subject)]
    wrong = [f"{item.operator} behind {item.tensor!r}" for item in misplaced]
    faults = []
    if wrong:
        faults.append(f"additions that {known} does not make: {_listed(wrong)}")
    if difference.unexpected:
        faults.append(f"nodes that are not the original's: {_listed(difference.unexpected)}")
    if difference.bypassed:
        faults.append(f"corrected tensors that are also read uncorrected: {_listed(difference.bypassed)}")
    if difference.outputs:
        faults.append(f"outputs that are computed in another way: {_listed(difference.outputs)}")
    protos = subject.prepared.model.proto, subject.hardened.proto
    if len({tuple(item.SerializeToString() for item in proto.training_info) for proto in protos}) > 1:
        faults.append("an algorithm for training runtimes")
    if allowed.always_adds and not difference.additions:
        faults.append(f"the metadata names method {method}, but the graph holds none of its corrections")
    operators = Counter(item.operator for item in difference.additions)
    text = ", ".join(f"{count} {name}" for name, count in sorted(operators.items())) or "no operators"
    details = {
        "method": method or None,
        "added": dict(sorted(operators.items())),
        "tensors": [item.tensor for item in difference.additions],
        "unexpected": len(difference.unexpected),
        "at_fault": [*wrong, *difference.unexpected, *difference.bypassed][:_LISTED_IN_FULL],
    }
    return decided("graph", not faults, "; ".join(faults) or f"the original and {text} added", details=details)


def _weights_check(difference: Difference, allowed: Changes) -> Check:
    wrong = [item for item in difference.changed if not _may_change(item, allowed)]
    names = sorted({item.name for item in difference.changed})
    details = {"changed": names}
    if wrong:
        listed = _listed([f"{item.name!r} of {item.operator}" for item in wrong])
        return decided("weights", False, f"changed weights: {listed}", details=details)
    if difference.lost and not difference.changed:
        return decided("weights", False, "weights cannot be compared: the graph is another one", details=details)
    message = f"{len(names)} weights changed by the method" if names else "no weight changed"
    return decided("weights", True, message, details=details)


def _sites(subject: Subject) -> frozenset[str]:
    try:
        return frozenset(site.tensor for site in find_sites(subject.prepared.model))
    except UnsupportedGraphError:
        return frozenset()


def _fits(item: Addition, allowed: Changes, sites: frozenset[str], subject: Subject) -> bool:
    if item.operator == "Cast":
        # The detour of bfloat16 through float32, which is exact; any other would lose values.
        narrow = subject.prepared.model.elem_types.get(item.tensor) == onnx.TensorProto.BFLOAT16
        return narrow and any(entry.name == "to" and entry.i in _DETOUR for entry in item.node.attribute)
    if item.operator == "Clip" and item.node.input[1:2] not in ([], [""]):
        return False
    if not item.on_constant:
        return item.operator in allowed.operators and item.tensor in sites
    if item.operator == "Add":
        # A shift belongs on a bias; a sum on a weight could be any weight.
        return "Add" in allowed.on_weights and len(subject.prepared.model.shapes.get(item.tensor, ())) == 1
    return item.operator in allowed.on_weights and item.operand is not None and _is_mask(item.operand)


def _is_mask(tensor: onnx.TensorProto) -> bool:
    """Whether a factor on a weight is one value from 0 to 1 a channel."""
    try:
        values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
    except (ValueError, TypeError):
        return False
    axes = sum(length != 1 for length in values.shape)
    return axes <= 1 and bool(np.isfinite(values).all() and (values >= 0).all() and (values <= 1).all())


def _may_change(item: ChangedWeight, allowed: Changes) -> bool:
    statistics = item.operator == "BatchNormalization" and item.position in _STATISTICS
    return allowed.weights or (allowed.statistics and statistics)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
