# SPDX-License-Identifier: Apache-2.0
"""Shares and sizes for people, the same in every report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def percent(value: float) -> str:
    """A share in per cent, with one decimal."""
    return f"{100 * value:.1f} %"


def share_text(share: Mapping[str, Any]) -> str:
    """A share in per cent with its interval: ``84.5 % [82.9, 86.0]``."""
    if share["value"] is None:
        return "not measured"
    low, high = (100 * end for end in share["interval_95"])
    return f"{percent(share['value'])} [{low:.1f}, {high:.1f}]"


def size_text(count: int) -> str:
    """Bytes in KiB or MiB."""
    return f"{count / 2**20:.2f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"


def class_text(index: int, name: str) -> str:
    """A class for people: its number once where the name is the number."""
    return name if name == str(index) else f"{index} {name}"


def shortened(name: str, length: int = 32) -> str:
    """A long name without its middle: begin and end of a tensor's name say which one it is."""
    if len(name) <= length:
        return name
    kept = length - 1
    return f"{name[: kept - kept // 2]}…{name[len(name) - kept // 2 :]}"


def words(values: Mapping[str, Any]) -> str:
    """Options or preprocessing in words: ``mean 0.5, 0.5, 0.5; augment on``; what is not set is left out."""
    return "; ".join(f"{key.replace('_', ' ')} {_word(value)}" for key, value in values.items() if value is not None)


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, Mapping):
        return f"({words(value)})"
    if isinstance(value, list | tuple):
        return ", ".join(map(_word, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
