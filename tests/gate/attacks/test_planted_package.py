# SPDX-License-Identifier: Apache-2.0
"""A folder ``patcher/`` or a variable in the environment where the gate is started: its code must not run."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import patcher
import patcher.export
from patcher import child
from patcher.child import run_module
from patcher.gate.cost import peak_memory
from tests.tiny_models import residual_model

PLANTED = "import pathlib; pathlib.Path({mark!r}).write_text('ran')\nprint('{{\"peak_bytes\": 1}}')\n"


def plant(folder: Path, mark: Path) -> None:
    for name in ("patcher/__init__.py", "patcher/measure/__init__.py", "patcher/measure/peak_memory.py", "numpy.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(PLANTED.format(mark=str(mark)))
    (folder / "sitecustomize.py").write_text(PLANTED.format(mark=str(mark)))


@pytest.mark.parametrize("how", ["folder", "PYTHONPATH", "PYTHONSTARTUP", "PYTHONHOME"])
def test_the_memory_check_runs_what_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    mark = tmp_path / "mark"
    plant(tmp_path, mark)
    if how == "folder":
        monkeypatch.chdir(tmp_path)
    else:
        monkeypatch.setenv(how, str(tmp_path / "sitecustomize.py") if how == "PYTHONSTARTUP" else str(tmp_path))
    found = peak_memory(residual_model(), {"image": np.zeros((2, 3, 8, 8), np.float32)})
    assert found > 1_000_000
    assert not mark.exists()


def test_only_what_is_needed_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def record(command: list[str], **given: Any) -> Any:
        seen.update(given, command=command)
        return subprocess.CompletedProcess(command, 0, b"", b"")

    monkeypatch.setattr("patcher.child.subprocess.run", record)
    for name in ("PYTHONPATH", "LD_PRELOAD", "LD_LIBRARY_PATH", "PATH", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    run_module("patcher.measure.peak_memory", seconds=1)
    assert "-I" in seen["command"]
    assert Path(seen["command"][0]).is_absolute()
    assert set(seen["env"]) <= set(child._KEPT)
    assert seen["env"]["OMP_NUM_THREADS"] == "1"


def test_every_process_of_the_product_goes_through_it() -> None:
    """A process that is started elsewhere would not be isolated."""
    roots = [Path(module.__file__).parent for module in (patcher, patcher.export, patcher.calibrate)]
    for root in roots:
        for file in root.rglob("*.py"):
            if file.name != "child.py":
                text = file.read_text()
                assert "subprocess.run(" not in text, file
                assert "Popen(" not in text, file
                assert "os.system(" not in text, file
