# SPDX-License-Identifier: Apache-2.0
"""Bake a patch into the ONNX graph. Never imports torch."""

from __future__ import annotations

from patcher.export.apply import apply_guard, apply_patch
from patcher.export.parity.guard import check_guard_parity
from patcher.export.parity.neutral import neutral_patch
from patcher.export.parity.parity import ParityCheck, ParityReport, check_parity

__all__ = [
    "ParityCheck",
    "ParityReport",
    "apply_guard",
    "apply_patch",
    "check_guard_parity",
    "check_parity",
    "neutral_patch",
]
