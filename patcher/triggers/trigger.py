# SPDX-License-Identifier: Apache-2.0
"""Estimated triggers: what a scan returns and what BNA, NFT and the gate take.

A trigger lives in pixel space [0, 1]. Two families:

- ``patch``:     x' = (1 - mask) * x + mask * pattern        (Neural Cleanse, Wang et al., S&P 2019)
- ``additive``:  x' = clip(x + pattern, 0, 1)                (Xiang et al., TNNLS 2020)

One ``.npz`` file holds all triggers of a scan; no pickle.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from patcher.data.image_sources import load_arrays
from patcher.errors import InputError
from patcher.files import staged_file

TRIGGERS = "triggers.npz"  # the name of the file in the folder of a scan
Family = Literal["patch", "additive"]
_FAMILIES: tuple[Family, ...] = ("patch", "additive")
_ARRAYS = ("family", "target", "sources", "masks", "patterns")


@dataclass(frozen=True)
class Trigger:
    """One estimated trigger.

    Attributes:
        family: How it is put into a picture.
        target: Class that triggered pictures get.
        sources: Classes from which it leads to the target.
        mask: float32 ``(1, H, W)`` in [0, 1]; all ones for ``additive``.
        pattern: float32 ``(C, H, W)``: pixels in [0, 1] for ``patch``, differences in [-1, 1] for ``additive``.
    """

    family: Family
    target: int
    sources: tuple[int, ...]
    mask: NDArray[np.float32]
    pattern: NDArray[np.float32]

    def apply(self, images: Any) -> Any:
        """Put the trigger into pixels.

        Args:
            images: float32 ``(N, C, H, W)`` in [0, 1]; NumPy array or torch tensor.

        Returns:
            The same kind, shape and range.
        """
        mask: Any = self.mask
        pattern: Any = self.pattern
        if not isinstance(images, np.ndarray):
            import torch

            mask, pattern = (torch.from_numpy(value).to(images) for value in (mask, pattern))
        if self.family == "additive":
            return (images + pattern).clip(0, 1)
        return (1 - mask) * images + mask * pattern


def write_triggers(triggers: Sequence[Trigger], path: str | os.PathLike[str]) -> None:
    """Write triggers of one model to an ``.npz`` file, whole or not at all; equal triggers give equal bytes.

    Raises:
        InputError: There are none, or the file cannot be written.
    """
    if not triggers:
        raise InputError("no triggers to write: the scan found none")
    classes = 1 + max(max((item.target, *item.sources)) for item in triggers)
    sources = np.zeros((len(triggers), classes), bool)
    for row, item in zip(sources, triggers, strict=True):
        row[list(item.sources)] = True
    arrays: dict[str, NDArray[Any]] = {
        "family": np.array([_FAMILIES.index(item.family) for item in triggers], np.int64),
        "target": np.array([item.target for item in triggers], np.int64),
        "sources": sources,
        "masks": np.stack([item.mask for item in triggers]).astype(np.float32),
        "patterns": np.stack([item.pattern for item in triggers]).astype(np.float32),
    }
    with staged_file(Path(path)) as staged, zipfile.ZipFile(staged, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            # numpy.savez stamps the time of day; a fixed date keeps the bytes the same.
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def read_triggers(path: str | os.PathLike[str]) -> tuple[Trigger, ...]:
    """Read the triggers of a scan.

    Raises:
        InputError: The file is missing, damaged, or no trigger file.
    """
    path = Path(path)
    arrays = load_arrays(path, _ARRAYS)
    if missing := [name for name in _ARRAYS if name not in arrays]:
        raise InputError(
            f"{path}: a trigger file written by 'patcher scan' expected, arrays missing: {', '.join(missing)}"
        )
    family, target, sources, masks, patterns = (arrays[name] for name in _ARRAYS)
    count, shape = len(target), patterns.shape
    fits = (
        family.shape == target.shape == (count,)
        and sources.ndim == 2
        and len(sources) == count
        and patterns.ndim == 4
        and masks.shape == (shape[0], 1, *shape[2:])
        and shape[0] == count
        and set(np.unique(family)) <= {0, 1}
        and np.isfinite(masks).all()
        and np.isfinite(patterns).all()
    )
    if not fits:
        raise InputError(f"{path}: arrays of {count} triggers of one size expected, found patterns of shape {shape}")
    return tuple(
        Trigger(
            family=_FAMILIES[int(family[index])],
            target=int(target[index]),
            sources=tuple(int(label) for label in np.flatnonzero(sources[index])),
            mask=masks[index].astype(np.float32),
            pattern=patterns[index].astype(np.float32),
        )
        for index in range(count)
    )
