# SPDX-License-Identifier: Apache-2.0
"""How long work says how far it is: one callback, passed down."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with what is being done, steps done and steps in all."""


def no_progress(what: str, done: int, total: int) -> None:
    """Report nothing."""
