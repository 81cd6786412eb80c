# SPDX-License-Identifier: Apache-2.0
"""Arrays of an ``.npz``: nothing is executed from it, and nothing unpacked that would fill memory."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patcher.errors import InputError

_MAX_ARRAY_BYTES = 16 * 2**30
# Deflate packs zeros a thousandfold: a file that does is made to fill memory.
_SUSPICIOUS_BYTES = 2**30
_MAX_EXPANSION = 100


def load_arrays(path: Path, names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Load the named arrays of an ``.npz`` that are there; sizes are checked before anything is unpacked.

    Raises:
        InputError: The file is missing or no usable ``.npz``.
    """
    if not path.is_file():
        raise InputError(f"file not found: {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        wanted = [name for name in names if f"{name}.npy" in sizes]
        unpacked = sum(sizes[f"{name}.npy"] for name in wanted)
        if unpacked > _MAX_ARRAY_BYTES:
            raise InputError(f"{path}: more than {_MAX_ARRAY_BYTES >> 30} GiB unpacked; give fewer images")
        if unpacked > _SUSPICIOUS_BYTES and unpacked > _MAX_EXPANSION * path.stat().st_size:
            raise InputError(
                f"{path}: unpacks to {unpacked >> 20} MiB, over {_MAX_EXPANSION} times its size; no images do"
            )
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in wanted}
        # Of a member that is no array, NumPy returns the bytes.
        if foreign := [name for name, value in found.items() if not isinstance(value, np.ndarray)]:
            raise InputError(f"{path}: {foreign[0]!r} is no array; save the file again with numpy.savez")
        return found
    except (
        zipfile.BadZipFile,
        zlib.error,
        ValueError,
        OSError,
        EOFError,
        KeyError,
        MemoryError,
        NotImplementedError,
        RuntimeError,  # an encrypted archive
        SyntaxError,  # NumPy parses an array's header as Python
        tokenize.TokenError,
    ) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        ragged = "; of ragged rows, pad them to one length" if "Object arrays" in reason else ""
        raise InputError(f"{path}: not an .npz file of plain arrays ({reason}{ragged})") from error
