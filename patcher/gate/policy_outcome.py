# SPDX-License-Identifier: Apache-2.0
"""From what the checks found to what the policy makes of it: requirements and suppressions."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import replace

from patcher.gate.check import Check, decided
from patcher.gate.policy import Policy, Suppression


def apply_policy(checks: Sequence[Check], policy: Policy, sha256: str, today: datetime.date) -> tuple[Check, ...]:
    """Fail what was required and skipped, accept what is suppressed, and judge the suppressions themselves.

    Args:
        checks: What was found.
        policy: Requirements and suppressions.
        sha256: Hash of the hardened model; suppressions of other models do not count.
        today: Suppressions hold up to and including their last day.
    """
    ours = [item for item in policy.suppressions if item.sha256 == sha256]
    valid = {item.id: item for item in ours if today <= item.expires}
    judged = [_suppressed(_required(check, policy), valid) for check in checks]
    return (*judged, _suppressions_check(ours, today, len(policy.suppressions) - len(ours)))


def _required(check: Check, policy: Policy) -> Check:
    if check.status == "skipped" and check.name in policy.require:
        return replace(check, status="not_run", message=f"required by the policy, and {check.message}")
    return check


def _suppressed(check: Check, valid: dict[str, Suppression]) -> Check:
    if not check.failed or check.name not in valid:
        return check
    entry = valid[check.name]
    message = f"{check.message}; accepted until {entry.expires.isoformat()}: {entry.statement}"
    return replace(check, status="suppressed", message=message)


def _suppressions_check(ours: Sequence[Suppression], today: datetime.date, others: int) -> Check:
    expired = [item for item in ours if item.expires < today]
    details = {"in_force": sorted(item.id for item in ours if item not in expired), "for_other_models": others}
    if expired:
        text = ", ".join(f"{item.id} on {item.expires.isoformat()}" for item in expired)
        return decided("suppressions", False, f"expired: {text}; fix the cause or decide again", details=details)
    if not ours:
        return Check("suppressions", "skipped", "none for this model", details=details)
    return decided("suppressions", True, f"{len(ours)} in force", details=details)
