# SPDX-License-Identifier: Apache-2.0
"""The report of `verify`: every check, the two models, the policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from patcher.report.report import Report
from patcher.report.sections import clean_set_section, model_section

if TYPE_CHECKING:
    from patcher.gate.check import Check
    from patcher.gate.subject import Subject


def verify_report(subject: Subject, checks: Sequence[Check], seconds: float) -> Report:
    """Put together what `verify` found.

    Args:
        subject: The two models and the clean images.
        checks: All checks, judged.
        seconds: Duration of the whole.
    """
    prepared, hardened = subject.prepared, subject.hardened
    reasons = tuple(f"{check.name}: {check.message}" for check in checks if check.failed)
    sections: dict[str, Any] = {
        "original": model_section(prepared.model),
        "hardened": {
            "name": hardened.path.name,
            "sha256": hardened.sha256,
            "bytes": hardened.proto.ByteSize(),
            "nodes": len(hardened.proto.graph.node),
            "outputs": list(hardened.outputs),
        },
        "preprocess": prepared.preprocess.as_json(),
        "clean_set": clean_set_section(prepared.clean_set, splits=False),
        "policy": subject.policy.as_json(),
        "checks": [check.as_json() for check in checks],
    }
    timings: dict[str, Any] = {check.name: dict(check.measured) for check in checks if check.measured}
    return Report("verify", "fail" if reasons else "pass", reasons, sections, {"seconds": seconds, **timings})
