# SPDX-License-Identifier: Apache-2.0
"""What tasks made, by their key: a folder each, which appears whole or not at all and holds its own hashes.

Entries are never changed; the folder, or any part of it, may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from patcher.fleet.content import read_files, replace_folder
from patcher.fleet.task import Files

_HASHES = "sha256.json"


class Cache:
    """A folder of results.

    Args:
        folder: Where; made when the first result is kept.
        ignored: Whether what an earlier run left is not read (``--force``).
    """

    def __init__(self, folder: Path, *, ignored: bool = False) -> None:
        self._folder, self._ignored = folder, ignored
        self._kept: set[str] = set()

    def has(self, key: str) -> bool:
        """Whether a task need not be done."""
        return self.read(key) is not None

    def read(self, key: str) -> Files | None:
        """The files of a task; ``None`` where there are none, or not as they were written."""
        if self._ignored and key not in self._kept:
            return None
        folder = self._place(key)
        try:
            hashes = json.loads((folder / _HASHES).read_bytes())
            files = read_files(folder, hashes)
        except (OSError, ValueError):
            return None
        whole = all(hashlib.sha256(content).hexdigest() == hashes[name] for name, content in files.items())
        return files if whole else None

    def keep(self, key: str, files: Files) -> None:
        """Write the files of a task.

        Raises:
            InputError: The file system refuses.
        """
        hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        replace_folder({**files, _HASHES: json.dumps(hashes, indent=0).encode()}, self._place(key))
        self._kept.add(key)

    def _place(self, key: str) -> Path:
        return self._folder / key[:2] / key
