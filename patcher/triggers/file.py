# SPDX-License-Identifier: Apache-2.0
"""The trigger file, ``triggers.npz``: all triggers of a scan in plain arrays, no pickle.

Version 2:

    version          int64 ()
    family           text (n,): names of registered families
    target           int64 (n,)
    sources          bool (n, K)
    shape            int64 (d,): of a row: channels, height, width of the pictures
    FAMILY.NAME      float32 (m, ...): one array a value of the family's layout, a row a trigger of that family

Version 1 had no ``version``, ``family`` as a number (0 patch, 1 additive), ``masks`` and ``patterns``; it is
still read.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patcher.data.npz import load_arrays
from patcher.errors import InputError
from patcher.files import staged_file
from patcher.triggers.family import Shape, families, family_of
from patcher.triggers.trigger import Trigger

TRIGGERS = "triggers.npz"  # the name of the file in the folder of a scan
VERSION = 2
_HEAD = ("version", "family", "target", "sources", "shape")
_FIRST_VERSION = ("family", "target", "sources", "masks", "patterns")
_LARGEST_CLASS = 2**31
_MOST_AXES = 6


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
        "version": np.array(VERSION, np.int64),
        "family": np.array([item.family for item in triggers]),
        "target": np.array([item.target for item in triggers], np.int64),
        "sources": sources,
        "shape": np.array(triggers[0].shape, np.int64),
    }
    for family in sorted({item.family for item in triggers}):
        own = [item.values for item in triggers if item.family == family]
        for name in family_of(family).layout(triggers[0].shape):
            arrays[f"{family}.{name}"] = np.stack([values[name] for values in own]).astype(np.float32)
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
        InputError: The file is missing, damaged, or no trigger file; of an unknown version or family; or its arrays
            do not fit one another.
    """
    path = Path(path)
    head = load_arrays(path, (*_HEAD, "masks"))
    if "version" not in head and "masks" in head:
        return _first_version(path)
    if missing := [name for name in _HEAD if name not in head]:
        raise InputError(
            f"{path}: a trigger file written by 'patcher scan' expected, arrays missing: {', '.join(missing)}"
        )
    version = head["version"]
    if version.shape != () or version.dtype.kind not in "iu" or version != VERSION:
        raise InputError(f"{path}: a trigger file of version 1 or {VERSION} expected, found {version}")
    targets, sources = _targets(path, head["target"], head["sources"])
    names, shape = _names(path, head["family"], len(targets)), _shape(path, head["shape"])
    values: dict[str, list[dict[str, NDArray[np.float32]]]] = {}
    for family in dict.fromkeys(names):
        values[family] = _values(path, family, shape, names.count(family))
    return tuple(
        Trigger(name, target, own, values[name].pop(0), shape)
        for name, target, own in zip(names, targets, sources, strict=True)
    )


def holds_triggers(path: str | os.PathLike[str]) -> bool:
    """Whether an ``.npz`` holds triggers of a scan rather than images."""
    return "family" in load_arrays(Path(path), ("family",))


def _first_version(path: Path) -> tuple[Trigger, ...]:
    """Two families, each with a mask ``(1, H, W)`` and a pattern ``(C, H, W)``."""
    arrays = load_arrays(path, _FIRST_VERSION)
    if missing := [name for name in _FIRST_VERSION if name not in arrays]:
        raise InputError(
            f"{path}: a trigger file written by 'patcher scan' expected, arrays missing: {', '.join(missing)}"
        )
    targets, sources = _targets(path, arrays["target"], arrays["sources"])
    family, patterns = arrays["family"], arrays["patterns"]
    if patterns.ndim != 4 or family.shape != (len(targets),) or not set(family.tolist()) <= {0, 1}:
        raise InputError(
            f"{path}: arrays of {len(targets)} triggers expected, found patterns of shape {patterns.shape}"
        )
    shape = _shape(path, np.array(patterns.shape[1:], np.int64))
    masks = _numbers(path, "masks", arrays["masks"], (len(targets), 1, *shape[1:]))
    patterns = _numbers(path, "patterns", patterns, (len(targets), *shape))
    return tuple(
        Trigger("additive", target, own, {"difference": pattern}, shape)
        if kind
        else Trigger("patch", target, own, {"mask": mask, "pattern": pattern}, shape)
        for kind, target, own, mask, pattern in zip(family, targets, sources, masks, patterns, strict=True)
    )


def _targets(path: Path, target: NDArray[Any], sources: NDArray[Any]) -> tuple[list[int], list[tuple[int, ...]]]:
    count = target.size
    fits = (
        target.ndim == 1
        and count > 0
        and target.dtype.kind in "iu"
        and sources.ndim == 2
        and len(sources) == count
        and sources.dtype.kind == "b"
    )
    if not fits or not (int(target.min()) >= 0 and int(target.max()) < _LARGEST_CLASS):
        raise InputError(
            f"{path}: targets (n,) and sources (n, classes) of n triggers expected, found shapes {target.shape} "
            f"and {sources.shape}"
        )
    return [int(value) for value in target], [tuple(int(place) for place in np.flatnonzero(row)) for row in sources]


def _names(path: Path, family: NDArray[Any], count: int) -> list[str]:
    if family.shape != (count,) or family.dtype.kind != "U":
        raise InputError(f"{path}: names of the families of {count} triggers expected, found shape {family.shape}")
    names = [str(name) for name in family]
    if unknown := [name for name in names if name not in families()]:
        raise InputError(f"{path}: families {', '.join(families())} expected, found {unknown[0]!r}")
    return names


def _shape(path: Path, shape: NDArray[Any]) -> Shape:
    whole = shape.ndim == 1 and 0 < len(shape) <= _MOST_AXES and shape.dtype.kind in "iu"
    if not whole or not (0 < int(shape.min()) <= int(shape.max()) <= 2**16):
        raise InputError(f"{path}: channels, height and width of the pictures expected, found {shape.tolist()}")
    return tuple(int(side) for side in shape)


def _values(path: Path, family: str, shape: Shape, count: int) -> list[dict[str, NDArray[np.float32]]]:
    """Values of the `count` triggers of a family, checked against its layout."""
    layout = family_of(family).layout(shape)
    arrays = load_arrays(path, tuple(f"{family}.{name}" for name in layout))
    found = {}
    for name, size in layout.items():
        key = f"{family}.{name}"
        if key not in arrays:
            raise InputError(f"{path}: an array {key!r} expected, found none")
        found[name] = _numbers(path, key, arrays[key], (count, *size))
    return [{name: array[row] for name, array in found.items()} for row in range(count)]


def _numbers(path: Path, name: str, array: NDArray[Any], size: tuple[int, ...]) -> NDArray[np.float32]:
    if array.shape != size or array.dtype.kind != "f":
        raise InputError(f"{path}: {name}: numbers of shape {size} expected, found {array.dtype} of {array.shape}")
    if not np.isfinite(array).all():
        raise InputError(f"{path}: {name}: finite numbers expected, found NaN or infinity")
    return array.astype(np.float32)
