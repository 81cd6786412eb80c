# SPDX-License-Identifier: Apache-2.0
"""The report: what was measured, as plain JSON values. Every other format is made from it.

Everything but the ``timings`` section is the same for the same inputs and seed.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from patcher._version import __version__

SCHEMA_VERSION = 1
Verdict = Literal["pass", "fail", "clean", "suspicious", "inconclusive", "backdoor", "not applicable"]
_PACKAGES = ("torch", "onnx", "onnxruntime", "onnxruntime-gpu", "onnx-graphsurgeon", "numpy")


@dataclass(frozen=True)
class Report:
    """One command's findings.

    Attributes:
        command: ``harden``, ``evaluate``, ...
        verdict: Whether every condition was met.
        reasons: One sentence for each condition that was not.
        sections: Section name to plain JSON values.
        timings: Seconds, milliseconds and ratios; the only part that differs between equal runs.
    """

    command: str
    verdict: Verdict
    reasons: tuple[str, ...]
    sections: Mapping[str, Any]
    timings: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The whole report as plain JSON values, versions included."""
        return {
            "schema_version": SCHEMA_VERSION,
            "patcher_version": __version__,
            "command": self.command,
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            **self.sections,
            "versions": versions(),
            "timings": dict(self.timings),
        }

    def to_json(self) -> str:
        """The text of ``report.json``."""
        return json.dumps(self.as_json(), indent=2, allow_nan=False, default=_plain) + "\n"


class Reported:
    """What every command's result says of itself; the figures are attributes of their own.

    Attributes:
        report: What was measured, as written to the report files.
    """

    report: Report

    @property
    def verdict(self) -> Verdict:
        """``pass`` or ``fail``; of a scan or an audit what was found."""
        return self.report.verdict

    @property
    def reasons(self) -> tuple[str, ...]:
        """One sentence for each condition that was not met, or for what was found."""
        return self.report.reasons

    def as_json(self) -> dict[str, Any]:
        """The whole report as plain JSON values."""
        return self.report.as_json()

    @property
    def passed(self) -> bool:
        """Whether every condition was met and nothing was found."""
        return self.verdict in ("pass", "clean")


def _plain(value: Any) -> Any:
    """NumPy scalars to Python's."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__name__} is no JSON value")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that figures depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
