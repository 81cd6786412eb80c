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
    from patcher.commands.calibrate import CalibrateResult
    from patcher.commands.compare import Comparison, compare
    from patcher.commands.evaluate import EvaluateResult, evaluate
    from patcher.commands.export_serving import ExportResult, export_serving
    from patcher.commands.harden import HardenResult, harden
    from patcher.commands.inspect import InspectResult, inspect
    from patcher.commands.scan import ScanResult, scan
    from patcher.commands.show import ShowResult, show
    from patcher.commands.verify import GateResult, verify

# Name to the module of `patcher.commands` that holds it: loaded on first use, and torch only where it is needed.
# `patcher.calibrate(...)` and `patcher.fleet(...)` are there as well: those sub-packages can be called.
_API = {
    "AuditResult": "audit_data",
    "CalibrateResult": "calibrate",
    "Comparison": "compare",
    "EvaluateResult": "evaluate",
    "ExportResult": "export_serving",
    "GateResult": "verify",
    "HardenResult": "harden",
    "InspectResult": "inspect",
    "ScanResult": "scan",
    "ShowResult": "show",
    "apply": "apply",
    "audit_data": "audit_data",
    "compare": "compare",
    "evaluate": "evaluate",
    "export_serving": "export_serving",
    "harden": "harden",
    "inspect": "inspect",
    "scan": "scan",
    "show": "show",
    "verify": "verify",
}

__all__ = [
    "AuditResult",
    "CalibrateResult",
    "Comparison",
    "EvaluateResult",
    "ExportResult",
    "GateResult",
    "HardenResult",
    "InspectResult",
    "ScanResult",
    "ShowResult",
    "__version__",
    "apply",
    "audit_data",
    "compare",
    "evaluate",
    "export_serving",
    "harden",
    "inspect",
    "scan",
    "show",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Load the API on first use."""
    if name in _API:
        return getattr(importlib.import_module(f"patcher.commands.{_API[name]}"), name)
    if name in ("calibrate", "fleet"):
        return importlib.import_module(f"patcher.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
