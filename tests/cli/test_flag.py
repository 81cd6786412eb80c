# SPDX-License-Identifier: Apache-2.0
"""``harden --flag`` by command line: outputs, reports, services."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from patcher._cli import main
from patcher.runtime import GuardedSession
from tests.cli.conftest import Run
from tests.report.page.reading import report_page

FORMS = ("if", "where", "two-files")


@pytest.fixture(scope="module")
def flagged(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample with a flag, in each form."""
    folder = tmp_path_factory.mktemp("flag")
    for form in FORMS:
        arguments = ["harden", samples / "digits.onnx", "--clean-dir", samples / "clean", "--flag", "--branch", form]
        arguments += ["--triggered", samples / "triggered.npz", "--target", "7", "--steps", "20"]
        assert main([str(item) for item in (*arguments, "-o", folder / f"{form}.onnx", "--quiet")]) == 0
    return folder


def test_the_outputs_come_last(flagged: Path, samples: Path) -> None:
    before = [item.name for item in onnx.load(samples / "digits.onnx").graph.output]
    after = [item.name for item in onnx.load(flagged / "if.onnx").graph.output]
    assert after == [*before, "trigger_score", "trigger_detected"]


def test_the_report_has_rates_and_the_threshold(flagged: Path) -> None:
    document = json.loads((flagged / "if.report" / "report.json").read_text())
    found = document["after"]["detection"]
    assert found["AUROC"] > 0.95
    assert found["FPR"]["value"] <= 0.02
    assert set(found["TPR_at_FPR"]) == {"0.01", "0.05"}
    assert document["method"]["flag"]["false_alarms"]["images"] > 0


def test_all_forms_serve_alike(flagged: Path, samples: Path) -> None:
    images = np.concatenate([np.load(samples / name)["images"] for name in ("test.npz", "triggered.npz")])
    inputs = images.astype(np.float32) / 255
    inputs = inputs[:, None] if inputs.ndim == 3 else inputs.transpose(0, 3, 1, 2)
    answers = {form: GuardedSession(flagged / f"{form}.onnx").classify(inputs) for form in FORMS}
    first = answers["if"]
    assert first.trigger_scores is not None
    assert first.flags.any()
    for other in answers.values():
        assert other.trigger_scores is not None
        np.testing.assert_allclose(other.trigger_scores, first.trigger_scores, atol=0.05)
        assert (other.flags == first.flags).mean() > 0.999


def test_evaluate_prints_the_score_and_draws_the_curve(flagged: Path, samples: Path, tmp_path: Path, run: Run) -> None:
    arguments = ("--data", samples / "test.npz", "--triggered", samples / "triggered.npz", "--target", 7)
    shown = run("evaluate", flagged / "if.onnx", *arguments, "--report-dir", tmp_path / "found")
    assert shown.code == 0
    assert "AUROC" in shown.out
    assert json.loads((tmp_path / "found" / "report.json").read_text())["AUROC"] > 0.95
    assert (tmp_path / "found" / "roc.png").read_bytes().startswith(b"\x89PNG")
    assert (flagged / "if.report" / "roc.png").exists()
    page = report_page(tmp_path / "found" / "report.html")
    assert "roc.png" in page.attributes["alt"]
    assert "a triggered image of class 3" in page.attributes["alt"]


@pytest.mark.parametrize(("flag", "value"), [("--false-alarms", "0"), ("--false-alarms", "1.5")])
def test_numbers_out_of_range(flag: str, value: str, samples: Path, tmp_path: Path, run: Run) -> None:
    arguments = ("--clean-dir", samples / "clean", "--flag", flag, value, "-o", tmp_path / "o.onnx")
    failed = run("harden", samples / "digits.onnx", *arguments)
    assert failed.code == 2
    assert flag in failed.err
