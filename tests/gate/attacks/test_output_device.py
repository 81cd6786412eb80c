# SPDX-License-Identifier: Apache-2.0
"""Output to a device, a pipe or a socket would replace it by a file: refused before any work."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from patcher.errors import InputError
from patcher.files import check_output, replace_file


def pipe(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def device(path: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root makes devices")


def linked(path: Path) -> None:
    pipe(path.with_name("behind"))
    path.symlink_to("behind")


@pytest.mark.parametrize("make", [pipe, listening, device, linked])
def test_it_stays_what_it_is(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "out")
    before = os.lstat(tmp_path / "out")
    for write in (lambda: check_output(tmp_path / "out"), lambda: replace_file(tmp_path / "out", b"model")):
        with pytest.raises(InputError, match="regular file"):
            write()
    after = os.lstat(tmp_path / "out")
    assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)


def test_a_link_to_a_file_still_works(tmp_path: Path) -> None:
    (tmp_path / "behind").write_text("old")
    (tmp_path / "out").symlink_to("behind")
    replace_file(tmp_path / "out", b"model")
    assert (tmp_path / "out").read_bytes() == b"model"
