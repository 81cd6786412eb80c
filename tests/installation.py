# SPDX-License-Identifier: Apache-2.0
"""The wheel of the checkout, and fresh places to install it into."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run `command` away from the checkout, so that nothing is imported from it by accident."""
    finished = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=os.environ | environment, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def build_wheel(source: Path, output: Path) -> Path:
    """The wheel, built over links to the checkout: setuptools leaves its build folder among them."""
    for name in ("pyproject.toml", "README.md", "LICENSE", "cli.py", "patcher", "calibrate", "export", "tests"):
        (source / name).symlink_to(ROOT / name)
    run(*PIP, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", output, source, cwd=output)
    (built,) = output.glob("*.whl")
    return built


def lone_environment(folder: Path, *distributions: str) -> Path:
    """A virtual environment with links to these distributions and what they require, and nothing else.

    Returns:
        Its interpreter.
    """
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    (packages,) = folder.glob("lib/python*/site-packages")
    for name in _closure(distributions):
        files = importlib.metadata.files(name) or []
        for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
            place = packages / top
            if not place.exists():
                place.symlink_to(importlib.metadata.distribution(name).locate_file(top))
    return folder / "bin" / "python"


def _closure(names: tuple[str, ...]) -> set[str]:
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            needed = [text for text in importlib.metadata.requires(name) or [] if "extra ==" not in text]
            waiting += [re.split(r"[^A-Za-z0-9._-]", text, maxsplit=1)[0] for text in needed]
    return found
