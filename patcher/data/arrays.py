# SPDX-License-Identifier: Apache-2.0
"""Rows that are no pictures: what the model takes, as it takes it.

Unlike pictures, arrays have no range of their own. Where one is told (``--range LOW:HIGH``), rows travel in units of
it, 0 to 1, so that triggers can be searched in them as in pictures; else they travel as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patcher.errors import InputError

if TYPE_CHECKING:
    from patcher.model.model import Model

_PICTURES = {"size": "--size", "mean": "--mean", "std": "--std", "color": "--color", "layout": "--layout"}
_NAMED = {"0-1": (0.0, 1.0), "0-255": (0.0, 255.0)}


@dataclass(frozen=True)
class Arrays:
    """Resolved encoding of one model's arrays.

    Attributes:
        names: The model's inputs.
        low: Smallest value of a float input.
        high: Largest value.
        ranged: Whether they were told.
    """

    names: tuple[str, ...]
    low: float = 0.0
    high: float = 1.0
    ranged: bool = False

    def __post_init__(self) -> None:
        if not (np.isfinite(self.low) and np.isfinite(self.high) and self.low < self.high):
            raise InputError(f"--range: a lower number before a higher one expected, found {self.low}:{self.high}")

    def to_input(self, images: Any) -> Any:
        """Rows float32 ``(N, ...)`` to the model's input, NumPy array or torch tensor."""
        if (self.low, self.high) == (0.0, 1.0):
            return images
        return images * (self.high - self.low) + self.low

    def from_input(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Undo `to_input`."""
        rows = np.asarray(inputs, np.float32)
        if (self.low, self.high) == (0.0, 1.0):
            return rows
        return np.asarray((rows - np.float32(self.low)) / np.float32(self.high - self.low), np.float32)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values, for the report and the model's metadata."""
        return {"inputs": list(self.names), "values": [self.low, self.high] if self.ranged else None}


def resolve_arrays(model: Model, flags: dict[str, Any]) -> Arrays:
    """Arrays as flags tell them.

    Args:
        model: The classifier.
        flags: ``range`` may be told; what speaks of pictures may not.

    Raises:
        InputError: A flag is for pictures, or the range is none.
    """
    what = f"the model's inputs are arrays ({', '.join(model.input_names)}), which travel as they are"
    for name, flag in _PICTURES.items():
        if flags.get(name) is not None:
            raise InputError(f"{flag}: for pictures; {what}")
    if flags.get("file") is not None:
        raise InputError(f"--preprocess: for pictures; {what}")
    if (told := flags.get("range")) is None:
        return Arrays(model.input_names)
    if len(model.inputs) > 1 or model.input.is_integer:
        raise InputError(f"--range: one input of floats expected, found {', '.join(model.input_names)}")
    low, high = read_range(told)
    return Arrays(model.input_names, low, high, ranged=True)


def read_range(text: str) -> tuple[float, float]:
    """``0-1``, ``0-255`` or ``LOW:HIGH`` as two numbers.

    Raises:
        InputError: It is none of them.
    """
    if text in _NAMED:
        return _NAMED[text]
    low, separator, high = text.partition(":")
    try:
        if separator:
            return float(low), float(high)
    except ValueError:
        pass
    raise InputError(f"--range: 0-1, 0-255 or LOW:HIGH expected, found {text!r}")
