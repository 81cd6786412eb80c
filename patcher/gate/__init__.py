# SPDX-License-Identifier: Apache-2.0
"""The release gate: may this model ship?

It measures behaviour and compares graphs by data flow; what the hardened file says of itself is checked, never
believed. A check that could not be run counts as failed. No torch: the gate runs where the model will.
"""

from __future__ import annotations

from patcher.gate.check import CHECKS, Check
from patcher.gate.triggers import Picture

__all__ = ["CHECKS", "Check", "Picture"]
