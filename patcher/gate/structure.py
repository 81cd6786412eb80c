# SPDX-License-Identifier: Apache-2.0
"""Is the graph the original's plus what the method is known to add, at the places where it adds it?

`patcher.gate.methods` says what that is. A form that rewrites the graph itself (corrections folded into weights)
cannot be told from tampering by its structure; there the patch file explains it: applied again, it gives the same
bytes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import onnx

from patcher.errors import UnsupportedGraphError
from patcher.gate.check import Check, decided
from patcher.gate.difference import Addition, ChangedWeight, Difference, compare_graphs
from patcher.gate.methods import Changes, changes_of
from patcher.gate.subject import Subject
from patcher.graph.sites import find_sites

_FLOATS = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
    onnx.TensorProto.DOUBLE,
)
_STATISTICS = (3, 4)
_SHOWN = 5
_LISTED_IN_FULL = 100


def structure_checks(subject: Subject, patch: Check) -> list[Check]:
    """The checks ``graph`` and ``weights``.

    Args:
        subject: The two models.
        patch: Outcome of the check ``patch``.
    """
    method = subject.provenance.method if subject.provenance else ""
    allowed = changes_of(method) or Changes()
    difference = compare_graphs(subject.prepared.model.proto, subject.hardened.proto)
    found = [_graph_check(subject, difference, allowed, method), _weights_check(difference, allowed)]
    return [_explained(check, patch) if check.failed else check for check in found]


def _explained(check: Check, patch: Check) -> Check:
    if patch.status == "pass":
        return replace(check, status="pass", message=f"explained by the patch file: {check.message}")
    if patch.status == "skipped":
        return replace(check, message=f"{check.message} (a form that folds corrections into weights needs --patch)")
    return check


def _graph_check(subject: Subject, difference: Difference, allowed: Changes, method: str) -> Check:
    if allowed.second_pass and difference.untouched and difference.outputs:
        count = len(difference.unexpected) + len(difference.additions)
        details = {"method": method, "added": {}, "tensors": [], "unexpected": 0, "at_fault": []}
        return decided("graph", True, f"the original untouched, and {count} nodes of a second pass", details=details)
    known = method if changes_of(method) else "no known method"
    sites = _sites(subject)
    misplaced = [item for item in difference.additions if not _fits(item, allowed, sites)]
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
    if allowed.second_pass and difference.untouched:
        return decided("weights", True, "no weight of the first pass changed", details={"changed": []})
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


def _fits(item: Addition, allowed: Changes, sites: frozenset[str]) -> bool:
    if item.operator == "Cast" and "Cast" in allowed.operators:
        return any(entry.name == "to" and entry.i in _FLOATS for entry in item.node.attribute)
    if item.operator == "Clip" and item.node.input[1:2] not in ([], [""]):
        return False
    if item.on_constant:
        return item.operator in allowed.on_weights
    return item.operator in allowed.operators and item.tensor in sites


def _may_change(item: ChangedWeight, allowed: Changes) -> bool:
    statistics = item.operator == "BatchNormalization" and item.position in _STATISTICS
    return allowed.weights or (allowed.statistics and statistics)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
