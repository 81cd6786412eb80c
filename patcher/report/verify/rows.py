# SPDX-License-Identifier: Apache-2.0
"""A gate report's checks as text, for the terminal, Markdown and HTML alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

STATUS_WORDS = {"pass": "pass", "fail": "FAIL", "not_run": "NOT RUN", "suppressed": "suppressed", "skipped": "skipped"}
HEADER = ("check", "status", "value [95 % interval]", "limit", "images", "what was found")
_SHARES = frozenset(
    {
        "accuracy",
        "agreement",
        "probes",
        "scanned_triggers",
        "triggered_images",
        "false_alarms",
        "flag_response",
        "detections",
    }
)
_RATIOS = frozenset({"latency", "memory", "size"})


def check_rows(document: Mapping[str, Any]) -> list[tuple[str, str, str, str, str, str]]:
    """One row a check, in the report's order.

    Args:
        document: A ``verify`` report as plain JSON values.
    """
    return [
        (
            check["name"],
            STATUS_WORDS[check["status"]],
            _value(check, document),
            _limit(check),
            "" if check["count"] is None else str(check["count"]),
            check["message"],
        )
        for check in document["checks"]
    ]


def _value(check: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    name, value = check["name"], check["value"]
    if value is None:
        ratio = document["timings"].get(name, {}).get("ratio")
        return "" if ratio is None else f"{ratio:.2f}x"
    if name in _RATIOS:
        return f"{value:.3f}x"
    if name not in _SHARES:
        return f"{value:g}"
    if check["interval_95"] is None:
        return f"{100 * value:.1f} %"
    low, high = check["interval_95"]
    return f"{100 * value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def _limit(check: Mapping[str, Any]) -> str:
    name, limit = check["name"], check["threshold"]
    if limit is None:
        return ""
    if name in _RATIOS:
        return f"{limit:g}x"
    return f"{100 * limit:g} %" if name in _SHARES else f"{limit:g}"
