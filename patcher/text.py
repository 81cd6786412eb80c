# SPDX-License-Identifier: Apache-2.0
"""Text that is safe to print: names from a hostile file may hold control sequences of the terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with every control character but line breaks replaced."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)
