# SPDX-License-Identifier: Apache-2.0
"""Estimated triggers: what a scan returns and what BNA, NFT and the gate take.

A trigger lives in pixel space [0, 1] and is of a registered family, which knows how its values change a picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patcher.triggers.arrays import like
from patcher.triggers.family import Panel, family_of


@dataclass(frozen=True)
class Trigger:
    """One estimated trigger.

    Attributes:
        family: Name of a registered family.
        target: Class that triggered pictures get.
        sources: Classes from which it leads to the target; none for all others.
        values: Its numbers, float32 arrays by name, of the shapes of the family's layout.
        shape: Rows that it fits: ``(C, H, W)`` of pictures.
    """

    family: str
    target: int
    sources: tuple[int, ...]
    values: Mapping[str, NDArray[np.float32]]
    shape: tuple[int, ...]

    def apply(self, images: Any) -> Any:
        """Put the trigger into pixels.

        Args:
            images: float32 ``(N, C, H, W)`` in [0, 1]; NumPy array or torch tensor.

        Returns:
            The same kind, shape and range.
        """
        return family_of(self.family).apply(images, {name: like(value, images) for name, value in self._rows.items()})

    def amplified(self, gain: float) -> Trigger:
        """The same trigger, stronger by a factor, within its range."""
        stronger = family_of(self.family).amplify(self._rows, gain)
        return replace(self, values={name: np.asarray(value[0], np.float32) for name, value in stronger.items()})

    def panels(self) -> list[Panel]:
        """Pictures of the trigger alone."""
        return family_of(self.family).panels(self._rows, self.shape)

    @property
    def _rows(self) -> dict[str, NDArray[np.float32]]:
        return {name: value[None] for name, value in self.values.items()}
