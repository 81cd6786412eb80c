# SPDX-License-Identifier: Apache-2.0
"""The folder that a report is written to."""

from __future__ import annotations

import os
from pathlib import Path

from patcher.errors import InputError


def check_report_dir(folder: str | os.PathLike[str] | None) -> None:
    """Refuse, before any work, a report folder that could not be made.

    Raises:
        InputError: The parent is missing, or the path is a file.
    """
    if folder is None:
        return
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise InputError(f"report folder is a file: {path}; choose another --report-dir")
    if not path.parent.is_dir():
        raise InputError(f"folder not found: {path.parent}; create it or choose another --report-dir")


def make_folder(folder: Path) -> None:
    """Make the folder where it is missing.

    Raises:
        InputError: The file system refuses.
    """
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {folder}: {error.strerror}; choose another --report-dir") from error
