# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import patcher
from tests.cli.conftest import Run


def test_the_command_says_what_it_wrote_and_never_writes_over(samples: Path, tmp_path: Path, run: Run) -> None:
    hardened = tmp_path / "digits.onnx"
    patcher.harden(samples / "digits.onnx", clean_dir=samples / "clean", flag=True, steps=5, output=hardened)
    given = ("export-serving", hardened, "--to", "triton", "-o", tmp_path / "models")
    done = run(*given)
    assert done.code == 0
    assert "trigger_detected" in done.out
    assert "one value" in done.out
    assert "config.pbtxt" in done.out
    again = run(*given)
    assert again.code == 2
    assert "a new or empty folder expected" in again.err
