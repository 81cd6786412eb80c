# SPDX-License-Identifier: Apache-2.0
"""The tutorial and the page on quantising, line by line: every exit code is the promised one, every file is written."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from patcher._cli import main
from tests.docs.pages import ROOT, Command, code_of, commands_in

TUTORIAL, QUANTISATION = (ROOT / "docs" / name for name in ("tutorial.md", "quantisation.md"))
NEEDED = ("model_signing", "in_toto_attestation", "cyclonedx")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that holds the sample, as the repository does."""
    (tmp_path / "samples").symlink_to(ROOT / "samples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")
@pytest.mark.skipif(not all(map(importlib.util.find_spec, NEEDED)), reason="the extras are not installed")
def test_the_tutorial_runs(folder: Path) -> None:
    follow(TUTORIAL)
    named = {
        word for code in code_of(TUTORIAL) for word in re.findall(r"(?:found|audit|release)/[\w./-]+\w", code.text)
    }
    assert len(named) > 12
    for name in named:
        assert (folder / name).exists(), name


def test_bounds_survive_quantising(folder: Path) -> None:
    follow(QUANTISATION)
    measured = json.loads((folder / "measured" / "report.json").read_text())
    assert measured["ACC"]["value"] > 0.9
    assert measured["ASR"]["value"] < 0.1


def follow(page: Path) -> None:
    """Run what stands in the page's blocks, from the first to the last."""
    for code in code_of(page):
        if code.language == "bash":
            for command in commands_in(code):
                call(command)
        elif code.language == "python":
            exec(compile(code.text, str(page), "exec"), {"__name__": "__main__"})


def call(command: Command) -> None:
    """Run one line and compare its exit code with the promised one."""
    program, *arguments = shlex.split(command.text)
    if program == "patcher":
        assert main(arguments) == command.code, f"line {command.line}: {command.text}"
    else:
        subprocess.run([program, *arguments], check=True, capture_output=True)
