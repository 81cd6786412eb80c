# SPDX-License-Identifier: Apache-2.0
"""Processes of our own: the code that is installed, whatever lies in the working directory or the environment."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO

# What a process needs to find its files and to run as fast as its parent; PYTHON* and LD_* are not among it.
_KEPT = (
    "CUDA_VISIBLE_DEVICES",
    "HOME",
    "LANG",
    "LC_ALL",
    "OMP_NUM_THREADS",
    "SYSTEMROOT",
    "TEMP",
    "TMP",
    "TMPDIR",
    "TZ",
)
# Behind what isolated mode finds: the folders that this process got its own packages from.
_START = (
    "import runpy, sys; sys.path += sys.argv.pop(1).split(chr(10)); "
    "runpy.run_module(sys.argv.pop(1), None, '__main__', alter_sys=True)"
)
_PACKAGES = ("patcher", "numpy", "onnxruntime")
_NO_LIMIT = 2**62


def run_module(module: str, *arguments: str, seconds: float) -> bytes:
    """Run one of this package's modules in a Python process of its own.

    Isolated mode (``-I``) leaves out the working directory, ``PYTHON*`` variables and the user's site folder.

    Args:
        module: Full name of the module.
        arguments: What it gets as ``sys.argv[1:]``.
        seconds: When it is ended.

    Returns:
        What it printed.

    Raises:
        OSError: The process cannot be started.
        subprocess.SubprocessError: It fails or takes too long.
    """
    finished = subprocess.run(
        _command(module, *arguments, folders=[_folder(name) for name in _PACKAGES]),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=seconds,
        env=_environment(),
        cwd=Path(__file__).resolve().parent,
    )
    return finished.stdout


def start_module(
    module: str, *arguments: str, log: IO[bytes], handed: int, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start one of this package's modules in an isolated process, in a session of its own, and do not wait for it.

    It finds packages where this process does, behind what isolated mode finds by itself: what a user's data loader
    or method comes from is among them.

    Args:
        module: Full name of the module.
        arguments: What it gets as ``sys.argv[1:]``.
        log: Takes what it prints.
        handed: A file descriptor that it gets.
        environment: Variables besides those that every process of ours gets.

    Raises:
        OSError: The process cannot be started.
    """
    return subprocess.Popen(
        _command(module, *arguments, folders=map(os.path.abspath, sys.path)),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        pass_fds=(handed,),
        env=_environment() | dict(environment),
        start_new_session=True,
    )


def _command(module: str, *arguments: str, folders: Iterable[str]) -> list[str]:
    """The command line that runs a module in isolated mode, with `folders` behind what that finds by itself."""
    found = dict.fromkeys(folder for folder in folders if folder)
    return [sys.executable, "-I", "-c", _START, "\n".join(found), module, *arguments]


def _environment() -> dict[str, str]:
    return {name: os.environ[name] for name in _KEPT if name in os.environ}


def resident_bytes(process: int) -> int:
    """Resident memory of a process; 0 where the system does not say."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def memory_budget(share: float) -> int:
    """Bytes that are a share of the machine's memory; without limit where the system does not say."""
    try:
        return int(share * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError):
        return _NO_LIMIT


def _folder(package: str) -> str:
    """Absolute path of the folder that holds a package."""
    found = importlib.util.find_spec(package)
    return str(Path(found.origin).resolve().parent.parent) if found is not None and found.origin else ""
