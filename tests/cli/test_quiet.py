# SPDX-License-Identifier: Apache-2.0
"""``--quiet``: nothing on stdout, and still one line on stderr that says why a command fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Run


@pytest.fixture
def harden(samples: Path) -> tuple[object, ...]:
    """Arguments of a command that reads the sample."""
    return (samples / "digits.onnx", "--clean-dir", samples / "clean", "--quiet")


def one_line(text: str) -> str:
    assert text.count("\n") == 1, text
    assert text.startswith("patcher: ")
    return text


@pytest.mark.parametrize("command", ["harden", "calibrate"])
def test_accuracy_that_falls_too_far(command: str, harden: tuple[object, ...], tmp_path: Path, run: Run) -> None:
    output = tmp_path / "out.onnx"
    # Bounds a tenth of a standard deviation above the mean and no step to widen them.
    found = run(command, *harden, "--method", "unit", "--z", "1e-6", "--steps", "0", "--epsilon", "0", "-o", output)
    assert (found.code, found.out) == (1, "")
    assert "accuracy" in one_line(found.err)
    assert not output.exists()


def test_a_scan_that_finds_something(harden: tuple[object, ...], tmp_path: Path, run: Run) -> None:
    quick = ("--family", "patch", "--seeds", "1")
    found = run("scan", *harden, *quick, "--report-dir", tmp_path / "scan")
    assert (found.code, found.out) == (1, "")
    assert "backdoor" in one_line(found.err)


def test_a_gate_that_fails(samples: Path, tmp_path: Path, run: Run) -> None:
    model = samples / "digits.onnx"
    found = run("verify", model, model, "--clean-dir", samples / "clean", "--quiet")
    assert (found.code, found.out) == (1, "")
    assert "provenance" in one_line(found.err)


def test_suspected_images(samples: Path, tmp_path: Path, run: Run) -> None:
    found = run(
        "audit-data", samples / "digits.onnx", "--train-dir", samples / "train.npz", "--quiet",
        "--report-dir", tmp_path / "audit",
    )  # fmt: skip
    assert (found.code, found.out) == (1, "")
    assert "suspected" in one_line(found.err)
