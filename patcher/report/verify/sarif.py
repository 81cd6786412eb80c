# SPDX-License-Identifier: Apache-2.0
"""A gate report as SARIF 2.1.0, for code scanning.

Every check is a rule, every failed or suppressed one a result. A model has no lines: results point at the
file with region 1:1, and at tensors as logical locations.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_MOST_TENSORS = 20
# How grave a failure is, on the scale of CVSS; a live backdoor is critical.
_SEVERITIES = {
    "probes": 9.5,
    "scanned_triggers": 9.5,
    "triggered_images": 9.5,
    "reconstruction": 9.0,
    "weights": 9.0,
    "graph": 8.5,
    "patch": 8.0,
    "provenance": 7.5,
    "operators": 7.0,
    "interface": 6.0,
    "accuracy": 6.0,
    "agreement": 6.0,
    "detections": 6.0,
    "flag_response": 6.0,
}
_LEAST_SEVERITY = 4.0
_TAGS = ["security", "external/mitre/atlas/AML.T0018", "external/mitre/atlas/AML.T0020"]


def render(document: Mapping[str, Any], checks: Mapping[str, str], uri: str) -> str:
    """The JSON text.

    Args:
        document: A ``verify`` report as plain JSON values.
        checks: Every check's name and what it asks.
        uri: The hardened model's path, relative to the repository.
    """
    found = [check for check in document["checks"] if check["status"] in ("fail", "not_run", "suppressed")]
    order = list(checks)
    run = {
        "tool": {
            "driver": {
                "name": "patcher",
                "version": document["patcher_version"],
                "semanticVersion": document["patcher_version"],
                "rules": [_rule(name, text) for name, text in checks.items()],
            }
        },
        "results": [_result(check, order.index(check["name"]), document, uri) for check in found],
        "columnKind": "utf16CodeUnits",
    }
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def _rule(name: str, text: str) -> dict[str, Any]:
    return {
        "id": name,
        "name": "".join(part.capitalize() for part in name.split("_")),
        "shortDescription": {"text": text},
        "fullDescription": {"text": text},
        "help": {
            "text": f"{text} See docs/gate.md, check '{name}'.",
            "markdown": f"{text} See `docs/gate.md`, check `{name}`.",
        },
        "defaultConfiguration": {"level": "error"},
        "properties": {"security-severity": str(_SEVERITIES.get(name, _LEAST_SEVERITY)), "tags": _TAGS},
    }


def _result(check: Mapping[str, Any], rule: int, document: Mapping[str, Any], uri: str) -> dict[str, Any]:
    location: dict[str, Any] = {
        "physicalLocation": {
            "artifactLocation": {"uri": quote(uri)},
            "region": {"startLine": 1, "startColumn": 1, "endLine": 1, "endColumn": 2},
        }
    }
    if tensors := _tensors(check["details"]):
        location["logicalLocations"] = [{"fullyQualifiedName": name, "kind": "tensor"} for name in tensors]
    # The same failure of the same file stays the same alert, whatever its figures are today.
    identity = f"{check['name']}\0{document['original']['sha256']}\0{document['hardened']['name']}"
    result = {
        "ruleId": check["name"],
        "ruleIndex": rule,
        "level": "error",
        "message": {"text": f"{check['name']}: {check['message']}"},
        "locations": [location],
        "partialFingerprints": {"patcherCheck/v1": hashlib.sha256(identity.encode()).hexdigest()},
    }
    if check["status"] == "suppressed":
        entries = document["policy"]["suppressions"]
        statement = next((entry["statement"] for entry in entries if entry["id"] == check["name"]), "")
        result["suppressions"] = [{"kind": "external", "status": "accepted", "justification": statement}]
    return result


def _tensors(details: Mapping[str, Any]) -> Sequence[str]:
    names = [*details.get("changed", []), *details.get("at_fault", [])]
    return names[:_MOST_TENSORS]
