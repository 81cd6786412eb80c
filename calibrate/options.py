# SPDX-License-Identifier: Apache-2.0
"""Options in their range, or one line that names the flag."""

from __future__ import annotations

from math import inf
from typing import Literal

from patcher.errors import InputError


def check_ranges(
    options: object, *names: str, least: float | None = None, above: float | None = None, most: float | None = None,
    below: float | None = None,
) -> None:  # fmt: skip
    """Check fields of a dataclass of options; infinite and undefined numbers are out of every range.

    Args:
        options: The dataclass; its fields are flags with underscores for hyphens.
        names: Fields to check.
        least: Smallest value allowed.
        above: Value that must be exceeded.
        most: Largest value allowed.
        below: Value that must not be reached.

    Raises:
        InputError: A field is out of its range; the message names its flag.
    """
    limits = {"at least": least, "above": above, "at most": most, "below": below}
    expected = " and ".join(f"{word} {limit:g}" for word, limit in limits.items() if limit is not None)
    for name in names:
        value = getattr(options, name)
        fits = (
            -inf < value < inf
            and (least is None or value >= least)
            and (above is None or value > above)
            and (most is None or value <= most)
            and (below is None or value < below)
        )
        if not fits:
            raise InputError(f"--{name.replace('_', '-')}: {expected} expected, found {value}")


Granularity = Literal["channel", "element"]


AlphaSchedule = Literal["paper", "authors", "constant"]
