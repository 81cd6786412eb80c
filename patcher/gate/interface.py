# SPDX-License-Identifier: Apache-2.0
"""Is the hardened file a drop-in: the same inputs and outputs, opset and IR version, standard operators?"""

from __future__ import annotations

from patcher.errors import ParityError
from patcher.export.parity.parity import check_interface
from patcher.export.reading.graph import called
from patcher.gate.check import Check, decided
from patcher.gate.methods import changes_of
from patcher.gate.numbering import RANDOM
from patcher.gate.subject import Subject
from patcher.model.check import all_nodes
from patcher.two_files import RUN_TIME_OUTPUTS


def interface_check(subject: Subject) -> Check:
    """Inputs and outputs are the original's, in order; new outputs come last and keep a row an image."""
    original, hardened = subject.prepared.model.proto, subject.hardened.proto
    outputs = list(subject.hardened.outputs)
    details = {"outputs": outputs}
    try:
        check_interface(original, hardened)
    except ParityError as error:
        return decided("interface", False, str(error), details=details)
    count = len(original.graph.output)
    added = list(hardened.graph.output)[count:]
    # A server's automatic batching cuts every output along its first axis.
    batch = next((_first_axis(value) for value in hardened.graph.input), "")
    odd = [value.name for value in added if _first_axis(value) not in (batch, "") or not _rank(value)]
    if odd:
        return decided("interface", False, f"added outputs without a batch axis: {', '.join(odd)}", details=details)
    allowed = _allowed(subject)
    strange = [value.name for value in added if not called(value.name, *allowed)]
    if strange or len(added) > len(allowed):
        return decided(
            "interface", False, f"outputs that its method does not add: {', '.join(strange)}", details=details
        )
    names = ", ".join(value.name for value in added)
    return decided("interface", True, f"as the original{f', and {names} added last' if names else ''}", details=details)


def _allowed(subject: Subject) -> tuple[str, ...]:
    """What a second pass answers with beside the original's outputs."""
    changes = changes_of(subject.provenance.method) if subject.provenance else None
    if changes is None or not changes.second_pass:
        return ()
    return f"{subject.prepared.model.logits}_original", *RUN_TIME_OUTPUTS


def operators_check(subject: Subject) -> Check:
    """Standard operators only, all data in the model's own folder, and ONNX Runtime loads it."""
    hardened = subject.hardened
    operators = sorted({node.op_type for node in all_nodes(hardened.proto)})
    known = {node.op_type for node in all_nodes(subject.prepared.model.proto)}
    random = [name for name in operators if name in RANDOM - known]
    reason = hardened.refusal or hardened.failure
    reason = reason or (f"random operators that the original does not have: {', '.join(random)}" if random else "")
    message = reason or f"{len(operators)} operators, all of the standard"
    return decided("operators", not reason, message, details={"operators": operators})


def _first_axis(value: object) -> str:
    shape = value.type.tensor_type.shape.dim  # type: ignore[attr-defined]
    return (shape[0].dim_param or str(shape[0].dim_value)) if len(shape) else ""


def _rank(value: object) -> int:
    return len(value.type.tensor_type.shape.dim)  # type: ignore[attr-defined]
