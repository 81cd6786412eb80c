# SPDX-License-Identifier: Apache-2.0
"""Triggered images made from clean ones with the triggers of a scan, to be scored like any others."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patcher.data.arrays import Arrays
from patcher.data.clean_set import CleanSet, read_file
from patcher.data.image_sources import Pixels
from patcher.data.npz import load_arrays
from patcher.data.preprocess import Preprocess
from patcher.errors import InputError
from patcher.model.model import Model
from patcher.tasks import Target
from patcher.triggers.file import read_triggers
from patcher.triggers.trigger import Trigger

_BATCH = 128


@dataclass(frozen=True)
class Triggered:
    """Triggered test images: only ever scored, never calibrated on.

    Attributes:
        pixels: ``(N, C, H, W)`` as in `CleanSet`.
        labels: True classes, int64 ``(N,)``, or ``(N, K)`` of several a row.
        target: The attacker's class, or ``all-to-all`` where class c is sent to c + 1; of several labels a row the
            one that is added, or ``remove-`` and the one that is removed.
    """

    pixels: Pixels
    labels: NDArray[np.int64]
    target: Target


def read_triggered(
    path: str | os.PathLike[str], model: Model, preprocess: Preprocess | Arrays, target: Target | None = None
) -> Triggered:
    """Read triggered images from an ``.npz`` with ``images``, true ``labels`` and perhaps ``target``.

    Raises:
        InputError: The file cannot be used, or no target is known.
    """
    path = Path(path)
    pictures = read_file(path, model, preprocess)
    if pictures.labels is None:
        raise InputError(f"{path}: an array 'labels' with the true classes expected, found none")
    if target is None:
        stored = load_arrays(path, ("target",)).get("target")
        if stored is None or stored.size != 1 or stored.dtype.kind not in "iuU":
            raise InputError(
                f"{path}: holds no 'target'; give the attacker's class with --target K or --target all-to-all"
            )
        target = str(stored.item()) if stored.dtype.kind == "U" else int(stored.item())
    return Triggered(pictures.pixels, pictures.labels, target)


def triggered_by(path: str | os.PathLike[str], clean_set: CleanSet, target: Target | None = None) -> Triggered:
    """Put a scan's triggers into the clean images of their source classes.

    Args:
        path: ``triggers.npz``.
        clean_set: Clean images.
        target: Which target's triggers; ``None`` where the file leaves no choice.

    Raises:
        InputError: The triggers do not fit the images, several targets leave a choice, or no image is left.
    """
    triggers = read_triggers(path)
    shape = clean_set.pixels.shape[1:]
    if triggers[0].shape != shape:
        raise InputError(f"{path}: triggers for pictures of {shape} expected, found {triggers[0].shape}")
    if target is None:
        target = _only_target(path, triggers, len(clean_set.class_names))
    chosen = triggers if target == "all-to-all" else [item for item in triggers if item.target == target]
    if not chosen:
        raise InputError(f"{path}: no trigger to class {target}; found {sorted({item.target for item in triggers})}")
    pixels, labels = [], []
    for item in chosen:
        own = clean_set.labels
        rows = np.flatnonzero(clean_set.task.carries(own, item.target, item.sources))
        pixels += [item.apply(images) for images, _ in clean_set.batches(rows, _BATCH)]
        labels.append(own[rows])
    if not sum(map(len, labels)):
        raise InputError(f"{path}: images of the triggers' source classes expected, found none")
    return Triggered(np.concatenate(pixels), np.concatenate(labels), target)


def _only_target(path: str | os.PathLike[str], triggers: tuple[Trigger, ...], classes: int) -> Target:
    targets = sorted({item.target for item in triggers})
    if len(targets) == 1:
        return targets[0]
    if all(item.sources == ((item.target - 1) % classes,) for item in triggers):
        return "all-to-all"
    raise InputError(f"{path}: triggers to {len(targets)} classes; choose one of {targets} with --target")
