# SPDX-License-Identifier: Apache-2.0
"""Disarm backdoors in ONNX image classifiers before they are deployed.

import patcher

result = patcher.harden("model.onnx", clean_dir="data/", method="unit")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from patcher._version import __version__

if TYPE_CHECKING:
    from patcher.auditing import AuditResult, audit_data
    from patcher.gate import GateResult, verify
    from patcher.pipeline import HardenResult, apply, evaluate, harden
    from patcher.scanning import ScanResult, scan

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

_GATE = ("GateResult", "verify")
_AUDIT = ("AuditResult", "audit_data")
_SCAN = ("ScanResult", "scan")


def __getattr__(name: str) -> Any:
    """Load the API on first use: torch is imported only where it is needed."""
    if name in _GATE:
        from patcher import gate

        return getattr(gate, name)
    if name in _AUDIT:
        from patcher import auditing

        return getattr(auditing, name)
    if name in _SCAN:
        from patcher import scanning

        return getattr(scanning, name)
    if name in __all__:
        from patcher import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
