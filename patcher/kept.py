# SPDX-License-Identifier: Apache-2.0
"""Flagged inputs kept for review, one ``.npy`` file each; `patcher harden --flagged` reads the folder as it is.

The folder is bounded in number and bytes: the oldest files go first, so that an attack that begins late is kept as
well. An input that is there already is not kept again, so that one picture sent over and over drives nothing out.
Files appear whole or not at all, readable by their owner alone. Needs the standard library and numpy.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patcher.errors import InputError

_log = logging.getLogger(__name__)
_PREFIX = "flagged-"
_SUFFIX = ".npy"


class Keeper:
    """Keeps flagged inputs in a folder. Safe to share between threads; several processes may share the folder.

    Args:
        folder: Made where it is missing.
        most_files: Inputs kept at most.
        most_bytes: Bytes of all files together at most.

    Raises:
        InputError: The folder cannot be made or written to, or a limit is below 1.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, most_files: int = 1000, most_bytes: int = 256 * 2**20
    ) -> None:
        if min(most_files, most_bytes) < 1:
            raise InputError(f"limits of at least 1 expected for kept inputs, found {most_files} and {most_bytes}")
        self._folder, self._most_files, self._most_bytes = Path(folder), most_files, most_bytes
        self._lock = threading.Lock()
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._folder):
                pass
        except OSError as error:
            raise InputError(f"folder for flagged inputs {folder}: cannot be written ({error.strerror})") from error

    def keep(self, inputs: NDArray[Any]) -> int:
        """Keep inputs ``(N, ...)``, as the model takes them.

        Returns:
            How many were written. A full or broken disk is logged, never raised: a service goes on answering.
        """
        written = 0
        try:
            with self._lock:
                for row in inputs:
                    written += self._keep(row)
        except OSError as error:
            _log.warning("%d flagged inputs not kept in %s: %s", len(inputs) - written, self._folder, error)
        return written

    def _keep(self, row: NDArray[Any]) -> bool:
        stream = io.BytesIO()
        np.save(stream, np.ascontiguousarray(row), allow_pickle=False)
        content = stream.getvalue()
        ending = f"-{hashlib.sha256(content).hexdigest()[:16]}{_SUFFIX}"
        there = sorted(self._files())
        if len(content) > self._most_bytes or any(name.endswith(ending) for name, _ in there):
            return False
        self._make_room(there, len(content))
        self._write(self._folder / f"{_PREFIX}{time.time_ns():020d}{ending}", content)
        return True

    def _make_room(self, there: list[tuple[str, int]], size: int) -> None:
        """Remove the oldest files, those with the earliest names."""
        count, total = len(there), sum(length for _, length in there)
        for name, length in there:
            if count < self._most_files and total + size <= self._most_bytes:
                return
            (self._folder / name).unlink(missing_ok=True)
            count, total = count - 1, total - length

    def _files(self) -> Iterator[tuple[str, int]]:
        """Names and sizes of the files that this class made; others are left alone."""
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.startswith(_PREFIX) and entry.name.endswith(_SUFFIX) and entry.is_file():
                    yield entry.name, entry.stat().st_size

    def _write(self, path: Path, content: bytes) -> None:
        # Hidden until it is whole: readers of the folder pass hidden files over.
        descriptor, name = tempfile.mkstemp(prefix=".", suffix=".part", dir=self._folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            os.replace(name, path)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise
