# SPDX-License-Identifier: Apache-2.0
"""Sentences and points from the command line: two of the samples, trained here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import patcher
from patcher._cli import main
from patcher.runtime import GuardedSession
from patcher.triggers.file import read_triggers
from samples.task_text import VOCABULARY
from samples.train_tasks import make


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of sentences with a backdoor, and its data."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return make("text", tmp_path_factory.mktemp("tasks"))
    finally:
        torch.set_num_threads(threads)


def test_a_text_classifier_from_scan_to_gate(text: Path, tmp_path: Path) -> None:
    model, clean = str(text / "model.onnx"), ("--clean-dir", str(text / "clean.npz"))
    assert main(["scan", model, *clean, "--report-dir", str(tmp_path / "scan")]) == 1
    found = read_triggers(tmp_path / "scan" / "triggers.npz")
    assert {item.target for item in found} == {0}
    words = {VOCABULARY[int(token)] for token in found[0].values["tokens"] if token >= 0}
    assert "cf" in words

    hardened, attack = tmp_path / "out.onnx", ("--triggered", str(text / "triggered.npz"))
    files = ("-o", str(hardened), "--report-dir", str(tmp_path / "report"))
    assert main(["harden", model, *clean, *attack, *files, "--quiet"]) == 0
    document = json.loads((tmp_path / "report" / "report.json").read_text())
    assert document["before"]["attack"]["ASR"]["value"] >= 0.9
    assert document["after"]["attack"]["ASR"]["value"] <= 0.1
    assert any("tokens inputs" in note for note in document["notes"])
    assert main(["verify", model, str(hardened), *clean, "--quiet"]) == 0
    assert main(["evaluate", str(hardened), "--data", str(text / "test.npz"), *attack]) == 0


def test_a_flag_for_sentences_serves_several_inputs(text: Path, tmp_path: Path) -> None:
    files = {"clean_dir": text / "clean.npz", "triggered": text / "triggered.npz", "output": tmp_path / "flagged.onnx"}
    result = patcher.harden(text / "model.onnx", method="unit", flag=True, steps=4, limit_per_class=40, **files)
    assert result.detection is not None
    assert result.detection.tpr is not None
    assert result.detection.tpr.value >= 0.9
    with np.load(text / "test.npz") as file:
        feed = {name: file[name][:70] for name in ("input_ids", "attention_mask")}
        answers = GuardedSession(tmp_path / "flagged.onnx").classify(feed)
        assert (answers.labels == file["labels"][:70]).mean() >= 0.9
    assert answers.flags.mean() <= 0.1


def test_bad_input_is_one_line_and_exit_code_2(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with np.load(text / "clean.npz") as file:
        arrays = dict(file)
    cases = {
        "missing 'attention_mask'": {name: arrays[name] for name in ("input_ids", "labels")},
        "labels 0 to 7 expected": {**arrays, "labels": arrays["labels"] + 1},
        "one class a row expected": {**arrays, "labels": np.eye(8, dtype=np.int64)[arrays["labels"]]},
        "shape (N, 16) expected": {**arrays, "input_ids": arrays["input_ids"][:, :9]},
    }
    for message, given in cases.items():
        np.savez(tmp_path / "bad.npz", **given)
        assert main(["harden", str(text / "model.onnx"), "--clean-dir", str(tmp_path / "bad.npz")]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert message in lines[0]
    assert main(["audit-data", str(text / "model.onnx"), "--train-dir", str(text / "clean.npz")]) == 2
    assert "for pictures; the model takes tokens inputs" in capsys.readouterr().err
