# SPDX-License-Identifier: Apache-2.0
"""How rows travel, and what the model takes: pictures have one encoding (`Preprocess`), arrays another (`Arrays`)."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Encoding(Protocol):
    """From rows to the array that the model's inputs are made of, and back."""

    def to_input(self, images: Any) -> Any:
        """Rows float32 ``(N, ...)`` to the model's input, NumPy array or torch tensor; differentiable."""
        ...

    def from_input(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Undo `to_input`."""
        ...

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values, for the report and the model's metadata."""
        ...
