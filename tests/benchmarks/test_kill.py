# SPDX-License-Identifier: Apache-2.0
"""Killed while it works, `harden` leaves nothing or a whole model."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx

from benchmarks import kill
from tests.gate.tampering import one_weight_changed


def test_three_kills() -> None:
    found = kill.kill_runs(3, steps=2)
    assert found["faults"] == []
    assert found["nothing"] + found["whole"] == 3


def test_half_a_model_would_be_noticed(samples: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    model = onnx.load(samples / "digits.onnx")
    one_weight_changed(model)
    onnx.save(model, output)
    found = {"nothing": 0, "whole": 0, "temporary_files": 0, "faults": []}
    kill._judge(found, output, 0)
    assert found["faults"]
    shutil.copy(samples / "digits.onnx", tmp_path / ".out.onnx.abc.part")
    output.unlink()
    kill._judge(found, output, 1)
    assert (found["nothing"], found["temporary_files"]) == (1, 1)
