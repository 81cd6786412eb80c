# SPDX-License-Identifier: Apache-2.0
"""What a patch's channel masks look like: per masked constant, sorted, with the floor mu(l); for people and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patcher.calibrate.nft.options import mask_floor
from patcher.patch import Patch, WeightMask

MASK_HEADER = ("masked constant", "l", "floor", "lowest", "median", "highest", "below 1/2", "sorted")
_LEVELS = "▁▂▃▄▅▆▇█"
_COLUMNS = 24
_MOST_SUPPRESSED = 10


@dataclass(frozen=True)
class LayerMasks:
    """The masks of one constant.

    Attributes:
        initializer: The constant.
        number: l, counted from 1 in graph order.
        floor: mu(l), the smallest value a mask may take; ``None`` where the patch does not say.
        values: The mask with its axes of length 1 dropped.
    """

    initializer: str
    number: int
    floor: float | None
    values: NDArray[np.float32]

    @property
    def ordered(self) -> NDArray[np.float32]:
        """All values, ascending."""
        return np.sort(self.values, axis=None)


def layer_masks(patch: Patch) -> tuple[LayerMasks, ...]:
    """The masks of a patch in graph order; empty where it has none."""
    base, decay = patch.options.get("floor"), patch.options.get("floor_decay")
    masks = [item for item in patch.corrections if isinstance(item, WeightMask)]
    return tuple(
        LayerMasks(
            item.initializer,
            number,
            None if base is None or decay is None else mask_floor(number, base, decay),
            item.mask.squeeze() if item.mask.size > 1 else item.mask.reshape(1),
        )
        for number, item in enumerate(masks, start=1)
    )


def most_suppressed(layers: Sequence[LayerMasks], count: int = _MOST_SUPPRESSED) -> list[tuple[str, float]]:
    """The channels with the smallest masks below 1, as ``constant[channel]``, the smallest first."""
    found = [
        (f"{layer.initializer}[{', '.join(map(str, place))}]", float(value))
        for layer in layers
        for place, value in np.ndenumerate(layer.values)
        if value < 1
    ]
    return sorted(found, key=lambda entry: entry[1])[:count]


def mask_rows(layers: Sequence[LayerMasks]) -> list[tuple[str, ...]]:
    """Rows of text under `MASK_HEADER`."""
    return [
        (
            layer.initializer,
            str(layer.number),
            "" if layer.floor is None else f"{layer.floor:.2g}",
            *(f"{value:.3f}" for value in (layer.values.min(), np.median(layer.values), layer.values.max())),
            f"{(layer.values < 0.5).sum()} of {layer.values.size}",
            _sparkline(layer.ordered),
        )
        for layer in layers
    ]


def masks_section(patch: Patch) -> dict[str, Any]:
    """The masks as plain JSON values."""
    layers = layer_masks(patch)
    return {
        "layers": [
            {
                "initializer": layer.initializer,
                "number": layer.number,
                "floor": layer.floor,
                "sorted": [round(float(value), 6) for value in layer.ordered],
            }
            for layer in layers
        ],
        "most_suppressed": [{"channel": name, "mask": round(value, 6)} for name, value in most_suppressed(layers)],
        "rows": [list(row) for row in mask_rows(layers)],
    }


def suppressed_rows(section: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Rows ``(channel, mask)`` of `masks_section`."""
    return [(entry["channel"], f"{entry['mask']:.3f}") for entry in section["most_suppressed"]]


def _sparkline(ordered: NDArray[np.float32]) -> str:
    """One character for each channel, or for an even choice of them: its height is the mask from 0 to 1."""
    places = np.linspace(0, len(ordered) - 1, min(_COLUMNS, len(ordered))).round().astype(int)
    heights = np.clip(ordered[places] * len(_LEVELS), 0, len(_LEVELS) - 1).astype(int)
    return "".join(_LEVELS[height] for height in heights)
