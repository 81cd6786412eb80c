# SPDX-License-Identifier: Apache-2.0
"""The zoo benchmark scores as its definitions say, on a model and images whose answers are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.zoo import Row, Scores, parse, score, table

SHARED = Path(__file__).parent.parent.parent.parent / "shared"


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """A model that answers ten times the first pixel, and images whose first pixel holds the answer."""
    levels = numpy_helper.from_array(np.arange(10, dtype=np.float32)[None] / 10, "levels")
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"]),
        helper.make_node("Sub", ["flat", "levels"], ["difference"]),
        helper.make_node("Abs", ["difference"], ["distance"]),
        helper.make_node("Neg", ["distance"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "first_pixel",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 1, 1, 1])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [levels],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "zoo").mkdir()
    (tmp_path / "cifar10").mkdir()
    onnx.save(model, tmp_path / "zoo" / "m.onnx")
    np.savez(tmp_path / "cifar10" / "test.npz", images=answers(0, 1, 2, 3), labels=np.array([0, 1, 2, 9]))
    np.savez(tmp_path / "zoo" / "m.triggered.npz", images=answers(9, 9, 2, 9, 0), labels=np.array([0, 1, 2, 9, 9]))
    return tmp_path


def answers(*classes: int) -> np.ndarray[Any, Any]:
    """Images uint8 (N, 1, 1, 1) that the model calls `classes`."""
    return np.round(np.array(classes).reshape(-1, 1, 1, 1) * 25.5).astype(np.uint8)


def test_all_to_one_leaves_out_the_target_class(zoo: Path) -> None:
    scores = score(zoo / "zoo" / "m.onnx", {"name": "m", "mode": "a2o", "target": 9}, zoo)
    assert scores == Scores(acc=0.75, asr=pytest.approx(2 / 3), sia=pytest.approx(1 / 3))


def test_all_to_all_counts_the_next_class_and_wraps(zoo: Path) -> None:
    scores = score(zoo / "zoo" / "m.onnx", {"name": "m", "mode": "a2a", "target": "c+1"}, zoo)
    assert scores == Scores(acc=0.75, asr=pytest.approx(1 / 5), sia=pytest.approx(2 / 5))


def test_a_clean_model_has_no_attack_to_score(zoo: Path) -> None:
    assert score(zoo / "zoo" / "m.onnx", {"name": "m", "mode": "none", "target": None}, zoo) == Scores(0.75, None, None)


def test_the_table_shows_both_sides_and_what_failed() -> None:
    rows = [
        Row("a", "folded", Scores(0.9, 1.0, 0.0), Scores(0.88, 0.02, 0.85), 0, 12.4, 900.0, ""),
        Row("b", "bn", Scores(0.9, None, None), None, 2, 1.0, 90.0, "Error: no such thing"),
    ]
    lines = table(rows).splitlines()
    assert lines[2] == "| a | folded | 90.0% → 88.0% | 100.0% → 2.0% | 0.0% → 85.0% | 12 s | 900 MiB | 0 |"
    assert lines[3] == "| b | bn | 90.0% → - | - → - | - → - | 1 s | 90 MiB | 2 |"
    assert lines[-1] == "b (bn): Error: no such thing"


def test_flags_after_the_dashes_go_to_harden() -> None:
    options = parse(["--seed", "3", "--forms", "all", "--", "--steps", "5"])
    assert (options.seed, options.forms, options.flags) == (3, ["folded", "bn", "dynamo"], ["--steps", "5"])


@pytest.mark.skipif(not (SHARED / "zoo").is_dir(), reason="needs ../shared/zoo")
def test_scores_of_the_original_match_the_zoo() -> None:
    scores = score(SHARED / "zoo" / "badnets_r18.onnx", {"name": "badnets_r18", "mode": "a2o", "target": 9}, SHARED)
    assert scores.asr == pytest.approx(1.0, abs=0.005)
    assert scores.acc == pytest.approx(0.855, abs=0.005)
