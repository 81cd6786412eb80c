# SPDX-License-Identifier: Apache-2.0
"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from patcher.errors import InputError


@contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it replaces ``path`` in one step.

    On any error, an interrupt included, the temporary file is removed and ``path`` is untouched.

    Raises:
        InputError: The folder does not exist or the file system refuses (full disk, permissions).
    """
    check_output(path)
    staged: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(descriptor)
        staged = Path(name)
        yield staged
        # mkstemp makes private files; a result is readable as any other file of the user.
        umask = os.umask(0)
        os.umask(umask)
        staged.chmod(0o666 & ~umask)
        os.replace(staged, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; nothing was written") from error
    finally:
        if staged is not None:
            staged.unlink(missing_ok=True)


def replace_file(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, whole or not at all.

    Raises:
        InputError: The folder does not exist or the file system refuses.
    """
    with staged_file(path) as staged, staged.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def check_output(path: str | os.PathLike[str] | None, source: object = None) -> None:
    """Refuse, before any work, an output path that could not be written at the end.

    Args:
        path: Where the output will go; ``None`` is fine.
        source: The input model, which is never overwritten.

    Raises:
        InputError: The folder is missing, the path is a folder or no regular file, or it is the input itself.
    """
    if path is None:
        return
    path = Path(path)
    if not path.parent.is_dir():
        raise InputError(f"output folder not found: {path.parent}; create it or choose another -o/--output")
    if path.is_dir():
        raise InputError(f"output is a folder: {path}; name a file with -o/--output")
    if path.exists() and not path.is_file():
        raise InputError(
            f"output is no regular file: {path}; devices and pipes are never replaced, name a file with -o"
        )
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"output folder cannot be written: {path.parent}; choose another -o/--output")
    if isinstance(source, str | os.PathLike) and path.exists() and Path(source).exists() and path.samefile(source):
        raise InputError(f"output {path} is the input itself, which is never overwritten; choose another -o/--output")


Source = str | os.PathLike[str]
