# SPDX-License-Identifier: Apache-2.0
"""The Python API: every command is a function, and its result has plain attributes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import patcher
from patcher._cli import _COMMANDS

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT / "samples"
MODEL, CLEAN = SAMPLES / "digits.onnx", SAMPLES / "clean"


def test_every_command_is_a_function() -> None:
    for name in _COMMANDS:
        if name != "policy":
            assert callable(getattr(patcher, name.replace("-", "_"))), name


@pytest.fixture(scope="module")
def hardened() -> patcher.HardenResult:
    """The sample, hardened in a few steps."""
    return patcher.harden(MODEL, clean_dir=CLEAN, steps=20, triggered=SAMPLES / "triggered.npz", target=7)


def test_a_result_says_what_the_report_says(hardened: patcher.HardenResult) -> None:
    document = hardened.as_json()
    assert hardened.passed == (hardened.verdict == "pass")
    assert hardened.accuracy.before.value == document["before"]["held_out"]["value"]
    assert hardened.accuracy.after.value == document["after"]["held_out"]["value"]
    assert hardened.attack is not None
    assert hardened.attack.asr.before.value == document["before"]["attack"]["ASR"]["value"] > 0.9
    assert hardened.attack.asr.after.value == document["after"]["attack"]["ASR"]["value"]
    assert hardened.attack.sia.after.count == hardened.attack.sia.before.count
    assert hardened.detection is None


def test_calibrate_is_a_package_and_a_command(tmp_path: Path) -> None:
    from patcher.calibrate import METHODS

    assert patcher.calibrate.METHODS is METHODS
    result = patcher.calibrate(MODEL, clean_dir=CLEAN, steps=10, output=tmp_path / "p.safetensors")  # type: ignore[operator]
    assert result.passed
    assert 0 <= result.accuracy.before - result.accuracy.after <= 0.02
    assert result.output == tmp_path / "p.safetensors"
    shown = patcher.show(result.output)
    assert shown.patch.method == "unit"
    assert {item.correction for item in shown.corrections} == {"UpperBound"}


def test_inspect_and_evaluate() -> None:
    found = patcher.inspect(MODEL)
    assert found.methods["unit"].applies
    assert found.provenance is None
    assert found.model.num_classes == 10
    measured = patcher.evaluate(MODEL, data=SAMPLES / "test.npz")
    assert measured.accuracy.value == measured.as_json()["ACC"]["value"]
    assert measured.attack is None


def test_a_checkout_without_an_installation_says_what_to_do() -> None:
    # -S: no site-packages, as where nothing was installed.
    done = subprocess.run(
        [sys.executable, "-S", ROOT / "cli.py", "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "make demo" in done.stderr
