# SPDX-License-Identifier: Apache-2.0
"""Names of a hostile file in the reports: no control sequence, no markup, in any format."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from patcher._cli import main
from tests.gate.attacks.conftest import Stage
from tests.gate.attacks.hostile_graphs import behind_scores, constant, metadata, node

NAME = "\x1b[2J\x07\x9b31m<script>alert(1)</script>|`\u202e"


@pytest.mark.parametrize("field", ["patcher.method", "patcher.version", "patcher.source_sha256", "patcher.options"])
def test_no_control_character(
    stage: Stage, path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], field: str
) -> None:
    model = onnx.load(stage.hardened("unit"))
    metadata(model, field, NAME)
    constant(model, NAME, 1.0)
    behind_scores(model, node("Abs", ["plain"], ["logits"], name=NAME))
    model.graph.node[0].name = NAME + "0"
    onnx.save(model, path)
    arguments = ["verify", stage.original, path, "--clean-dir", stage.folder / "clean.npz", "--accuracy-floor", "0"]
    assert main([str(item) for item in [*arguments, "--report-dir", tmp_path / "report"]]) in (1, 2)
    printed = capsys.readouterr()
    texts = [printed.out, printed.err, *(file.read_text() for file in (tmp_path / "report").glob("*"))]
    assert len(texts) == 7
    for text in texts:
        assert not set(text) & {"\x1b", "\x07", "\x9b", "\u202e"}
    assert "<script>alert" not in (tmp_path / "report" / "report.html").read_text()
