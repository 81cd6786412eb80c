# SPDX-License-Identifier: Apache-2.0
"""A table in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from patcher.text import printable


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table; pipes in a cell are escaped."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return lines + ["| " + " | ".join(printable(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
