# SPDX-License-Identifier: Apache-2.0
"""Shares and sizes for people, the same in every report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def share_text(share: Mapping[str, Any]) -> str:
    """A share in per cent with its interval: ``84.5 % [82.9, 86.0]``."""
    if share["value"] is None:
        return "not measured"
    low, high = (100 * end for end in share["interval_95"])
    return f"{100 * share['value']:.1f} % [{low:.1f}, {high:.1f}]"


def size_text(count: int) -> str:
    """Bytes in KiB or MiB."""
    return f"{count / 2**20:.2f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"
