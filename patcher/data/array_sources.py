# SPDX-License-Identifier: Apache-2.0
"""Where arrays come from: an ``.npz`` with one array an input, an ``.npy`` of the only one, a calibration reader.

In an ``.npz`` arrays have the names of the model's inputs, beside them ``labels``; the only input may also be called
``images``. Nothing is executed from a data file: ``allow_pickle`` is never on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patcher.data.arrays import Arrays
from patcher.data.image_sources import Pictures, read_feeds, read_labels
from patcher.data.npz import load_arrays
from patcher.errors import InputError
from patcher.model.inputs import TensorType, pack
from patcher.model.model import Model

_ONLY = "images"
_LARGEST_ID = 2**24  # float32 holds every whole number up to here


def read_array_file(path: Path, model: Model, encoding: Arrays) -> Pictures:
    """Read an ``.npz`` or ``.npy`` of arrays.

    Raises:
        InputError: The file is missing, damaged, pickled or ragged, or does not fit the model's inputs.
    """
    if path.suffix == ".npy":
        if len(model.inputs) > 1:
            raise InputError(f"{path}: an .npz with arrays {_names(model)} expected, found a single array")
        arrays: dict[str, NDArray[Any]] = {model.input.name: _load_single(path)}
    else:
        arrays = load_arrays(path, (*model.input_names, _ONLY, "labels"))
        if len(model.inputs) == 1 and model.input.name not in arrays and _ONLY in arrays:
            arrays[model.input.name] = arrays[_ONLY]
        if missing := [name for name in model.input_names if name not in arrays]:
            raise InputError(
                f"{path}: arrays named as the model's inputs expected ({_names(model)}), missing {missing[0]!r}"
            )
    rows = encoded(arrays, model, encoding, str(path))
    labels = arrays.get("labels")
    return Pictures(
        rows,
        None if labels is None else read_labels(labels, len(rows), path),
        None,
        hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def read_array_reader(module: str, function: str, model: Model, encoding: Arrays) -> Pictures:
    """Exhaust an ONNX Runtime ``CalibrationDataReader``.

    Raises:
        InputError: The function cannot be imported, or what it returns is no such reader, or does not fit.
    """
    feeds, where = read_feeds(module, function, model.input_names), f"--clean-dir {module}:{function}"
    arrays = {name: _joined([np.asarray(feed[name]) for feed in feeds], name, where) for name in model.input_names}
    rows = encoded(arrays, model, encoding, where)
    return Pictures(rows, None, None, hashlib.sha256(rows.tobytes()).hexdigest())


def encoded(arrays: Mapping[str, NDArray[Any]], model: Model, encoding: Arrays, where: str) -> NDArray[np.float32]:
    """Check the arrays of all inputs against the model, and make them the one array that travels.

    Raises:
        InputError: A shape, type or value does not fit.
    """
    found = [_checked(arrays[item.name], item, where) for item in model.inputs]
    counts = {len(array) for array in found}
    if len(counts) > 1:
        raise InputError(f"{where}: as many rows in all of {_names(model)} expected, found {sorted(counts)}")
    # Of one shape they are stacked, whatever length the graph leaves open; else they are cut where the model says.
    alike = len(set(model.row_shapes)) == 1
    for item, array, own in zip(model.inputs, found, model.row_shapes, strict=True):
        shape = found[0].shape[1:] if alike else own
        if array.shape[1:] != shape:
            raise InputError(f"{where}: {item.name!r}: rows of shape {shape} expected, found {array.shape[1:]}")
    rows = encoding.from_input(pack(found))
    if encoding.ranged and len(rows) and not (rows.min() >= -1e-6 and rows.max() <= 1 + 1e-6):
        low, high = (float(value) for value in (found[0].min(), found[0].max()))
        raise InputError(
            f"{where}: --range {encoding.low:g}:{encoding.high:g}: values within it expected, found {low:.4g} to "
            f"{high:.4g}"
        )
    return rows


def _checked(array: NDArray[Any], item: TensorType, where: str) -> NDArray[Any]:
    expected = [side if isinstance(side, int) else None for side in item.shape[1:]]
    fits = array.ndim == len(item.shape) and all(
        side is None or side == found for side, found in zip(expected, array.shape[1:], strict=False)
    )
    if not fits or not len(array):
        shape = ", ".join("?" if side is None else str(side) for side in expected)
        raise InputError(f"{where}: {item.name!r}: an array of shape (N, {shape}) expected, found {array.shape}")
    if array.dtype.kind not in ("iub" if item.is_integer else "fiu"):
        raise InputError(f"{where}: {item.name!r}: {item.dtype} values expected, found {array.dtype}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(f"{where}: {item.name!r}: finite values expected, found others")
    if item.is_integer and array.size and not (int(array.min()) >= 0 and int(array.max()) < _LARGEST_ID):
        raise InputError(f"{where}: {item.name!r}: ids from 0 to {_LARGEST_ID - 1} expected, found others")
    return array


def _load_single(path: Path) -> NDArray[Any]:
    if not path.is_file():
        raise InputError(f"file not found: {path}")
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, TypeError, SyntaxError, OverflowError, MemoryError, RecursionError) as error:
        raise InputError(
            f"{path}: not an .npy file of plain numbers; of ragged rows, pad them to one length"
        ) from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: not an .npy file of plain numbers")
    return array


def _joined(parts: Sequence[NDArray[Any]], name: str, where: str) -> NDArray[Any]:
    shapes = sorted({part.shape[1:] for part in parts})
    if len(shapes) > 1 or any(part.ndim < 1 for part in parts):
        raise InputError(f"{where}: {name!r}: rows of one shape expected, found {shapes[0]} and {shapes[-1]}: pad them")
    return np.concatenate(parts)


def _names(model: Model) -> str:
    return ", ".join(map(repr, model.input_names))
