# SPDX-License-Identifier: Apache-2.0
"""What files and folders hold, by hash; and how their content travels to another machine."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from patcher.errors import InputError, PatcherError
from patcher.fleet.task import Content, Files

_CHUNK = 1 << 20


class Contents:
    """Contents by path; each is hashed once in the life of this object."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, bool], Content] = {}

    def of(self, path: Path, *, model: bool = False) -> Content:
        """Hash a file, or a folder with everything in it.

        Args:
            path: File or folder.
            model: Whether it is an ONNX file: its external data belong to it, and its name stands in its reports.

        Raises:
            InputError: It is missing or cannot be read.
        """
        path = path.resolve()
        if (path, model) not in self._known:
            try:
                self._known[path, model] = _content(path, model)
            except OSError as error:
                raise InputError(f"cannot read {path}: {error.strerror or error}") from error
        return self._known[path, model]


def _content(path: Path, model: bool) -> Content:
    if path.is_dir():
        files = sorted(item for item in path.rglob("*") if item.is_file())
    elif path.is_file():
        files = [path, *(_external(path) if model else ())]
    else:
        raise InputError(f"file or folder not found: {path}")
    digest, together = hashlib.sha256(), hashlib.sha256()
    for file in files:
        name = file.relative_to(path if path.is_dir() else path.parent).as_posix() if model or path.is_dir() else ""
        digest.update(f"{name}\0{_file_sha256(file, together)}\0".encode())
    names = tuple(file.relative_to(path.parent).as_posix() for file in files)
    return Content(str(path), digest.hexdigest(), together.hexdigest(), names, str(path.parent))


def _external(path: Path) -> list[Path]:
    """External data files of a model; none of one that cannot be read, which its own tasks will say."""
    from patcher.model.external import external_files
    from patcher.model.file import parse

    try:
        return external_files(parse(path.read_bytes(), str(path)), path.parent, str(path))
    except PatcherError:
        return []


def _file_sha256(path: Path, together: hashlib._Hash) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            together.update(chunk)
    return digest.hexdigest()


def read_files(folder: Path, names: Iterable[str] | None = None) -> Files:
    """Everything in a folder, or the files of these names, as bytes."""
    found = names or sorted(item.relative_to(folder).as_posix() for item in folder.rglob("*") if item.is_file())
    return {name: (folder / name).read_bytes() for name in found}


def write_files(files: Files, folder: Path) -> None:
    """Write files into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def replace_folder(files: Files, folder: Path) -> None:
    """Write a folder as a whole: it is made beside its place and then renamed; an older one vanishes.

    Raises:
        InputError: The file system refuses.
    """
    with _staged(files, folder) as new:
        if folder.exists():
            os.replace(folder, new.with_name("old"))
        os.replace(new, folder)


def add_folder(files: Files, folder: Path) -> None:
    """The same where the name says what is in it: a folder that is there stays.

    Raises:
        InputError: The file system refuses.
    """
    if folder.is_dir():
        return
    with _staged(files, folder) as new:
        try:
            os.rename(new, folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise


@contextmanager
def _staged(files: Files, folder: Path) -> Iterator[Path]:
    """Files in a folder beside the place where they will be."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name[:16]}.", dir=folder.parent) as staged:
            new = Path(staged) / "new"
            write_files(files, new)
            yield new
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}") from error


class Store:
    """Contents on this machine, for processes that do not see the original files.

    Args:
        folder: Where they are unpacked; one folder a content, made once however many processes ask for it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def has(self, content: Content) -> bool:
        """Whether it was unpacked before."""
        return (self._folder / content.sha256).is_dir()

    def add(self, content: Content, files: Files) -> None:
        """Unpack a content."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        add_folder(files, self._folder / content.sha256)

    def path(self, content: Content) -> str:
        """Where it lies now."""
        return content.below(self._folder / content.sha256)

    def clear(self) -> None:
        """Remove everything."""
        shutil.rmtree(self._folder, ignore_errors=True)
