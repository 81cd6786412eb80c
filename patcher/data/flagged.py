# SPDX-License-Identifier: Apache-2.0
"""Images that a service flagged: unlabelled, some of them false alarms.

A folder of ``.npy`` files, each one model input as `patcher.kept.Keeper` writes them, a folder of pictures, or an
``.npz``. Labels are never read.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patcher.data.encoding import Encoding
from patcher.data.image_sources import as_float, read_folder, read_npz
from patcher.data.picture import refuse_special_files
from patcher.data.preprocess import Preprocess
from patcher.errors import InputError

_FLAG = "--flagged"
_SLACK = 0.05  # of the range of pixels, for pictures that were resampled after scaling


@dataclass(frozen=True)
class Flagged:
    """Flagged images.

    Attributes:
        pixels: float32 ``(N, C, H, W)`` in [0, 1].
        sha256: Hash of names and contents.
    """

    pixels: NDArray[np.float32]
    sha256: str


def read_flagged(source: str | os.PathLike[str], shape: tuple[int, ...], preprocess: Encoding) -> Flagged:
    """Read flagged images.

    Args:
        source: Folder or ``.npz``.
        shape: ``(C, H, W)`` of the clean images.
        preprocess: How pictures become the model's input.

    Raises:
        InputError: There are none, or they do not fit the model.
    """
    if not isinstance(preprocess, Preprocess):
        raise InputError(f"{_FLAG}: for pictures; the model takes arrays")
    path = Path(source)
    if path.is_dir():
        entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
        refuse_special_files(entries)
        if not entries:
            raise InputError(f"{_FLAG} {path}: flagged images expected (.npy model inputs or pictures), found none")
        if folders := [entry.name for entry in entries if entry.is_dir()]:
            raise InputError(f"{_FLAG} {path}: images without class folders expected, found folder {folders[0]!r}")
        if any(entry.suffix == ".npy" for entry in entries):
            found = _read_inputs(entries, preprocess)
        else:
            pictures = read_folder(path, 0, preprocess)
            found = Flagged(as_float(pictures.pixels), pictures.sha256)
    elif path.suffix == ".npz":
        pictures = read_npz(path, preprocess)
        found = Flagged(as_float(pictures.pixels), pictures.sha256)
    else:
        raise InputError(f"{_FLAG}: a folder of flagged images or an .npz file expected, found {str(source)!r}")
    if found.pixels.shape[1:] != shape:
        expected, other = ("x".join(map(str, item)) for item in (shape, found.pixels.shape[1:]))
        raise InputError(f"{_FLAG} {path}: images of {expected} as the clean ones expected, found {other}")
    return found


def _read_inputs(files: list[Path], preprocess: Preprocess) -> Flagged:
    """Model inputs, one a file, back to pixels."""
    digest = hashlib.sha256()
    inputs: list[NDArray[np.float32]] = []
    for file in files:
        array = _read_input(file)
        if inputs and array.shape != inputs[0].shape:
            raise InputError(f"{_FLAG} {file}: shape {inputs[0].shape} expected as in {files[0]}, found {array.shape}")
        digest.update(f"{file.name}\0".encode() + array.tobytes())
        inputs.append(array)
    batch = np.stack(inputs)
    if batch.shape[1 if preprocess.layout == "NCHW" else 3] != preprocess.channels:
        raise InputError(
            f"{_FLAG} {files[0]}: a model input with {preprocess.channels} channels in layout {preprocess.layout} "
            f"expected, found shape {batch.shape[1:]}"
        )
    pixels = preprocess.from_input(batch)
    # Not (a < b): NaN is on neither side.
    outside = ~((pixels >= -_SLACK) & (pixels <= 1 + _SLACK)).all(axis=(1, 2, 3))
    if outside.any():
        raise InputError(
            f"{_FLAG} {files[int(outside.argmax())]}: values of a preprocessed picture expected, found others"
        )
    return Flagged(pixels.clip(0, 1), digest.hexdigest())


def _read_input(file: Path) -> NDArray[np.float32]:
    """One model input, float32, three axes."""
    if file.suffix != ".npy":
        raise InputError(f"{_FLAG} {file}: an .npy file as all others of the folder expected; remove it")
    try:
        # Mapped first: the header may promise more than the file holds.
        array = np.load(file, mmap_mode="r", allow_pickle=False)
        if array.ndim != 3 or array.dtype.kind not in "fu":
            raise InputError(
                f"{_FLAG} {file}: one model input of three axes expected, found {array.dtype} {array.shape}"
            )
        return np.array(array, np.float32)
    except (OSError, ValueError, EOFError, TypeError, SyntaxError, OverflowError, MemoryError, RecursionError) as error:
        raise InputError(f"{_FLAG} {file}: not an .npy file of plain numbers") from error
