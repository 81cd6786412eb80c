# SPDX-License-Identifier: Apache-2.0
"""Disarm backdoors in ONNX image classifiers before they are deployed.

import patcher

result = patcher.harden("model.onnx", clean_dir="data/", method="unit")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from patcher._version import __version__

if TYPE_CHECKING:
    from patcher.commands.apply import apply
    from patcher.commands.audit_data import AuditResult, audit_data
    from patcher.commands.evaluate import evaluate
    from patcher.commands.harden import HardenResult, harden
    from patcher.commands.scan import ScanResult, scan
    from patcher.commands.verify import GateResult, verify

# Name to the module of `patcher.commands` that holds it: loaded on first use, and torch only where it is needed.
_API = {
    "AuditResult": "audit_data",
    "GateResult": "verify",
    "HardenResult": "harden",
    "ScanResult": "scan",
    "apply": "apply",
    "audit_data": "audit_data",
    "evaluate": "evaluate",
    "harden": "harden",
    "scan": "scan",
    "verify": "verify",
}

__all__ = [
    "AuditResult",
    "GateResult",
    "HardenResult",
    "ScanResult",
    "__version__",
    "apply",
    "audit_data",
    "evaluate",
    "harden",
    "scan",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Load the API on first use."""
    if name in _API:
        return getattr(importlib.import_module(f"patcher.commands.{_API[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
