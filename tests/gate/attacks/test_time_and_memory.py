# SPDX-License-Identifier: Apache-2.0
"""Models that never come to an end, or grow without one: ended on time, in one line, with exit code 2."""

from __future__ import annotations

import faulthandler
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from patcher._cli import watch
from tests.tiny_models import build, node

SECONDS = 6.0


def endless() -> onnx.ModelProto:
    """A loop of 1e12 rounds."""
    body = helper.make_graph(
        [node("Identity", ["go"], ["on"]), node("Add", ["x", "x"], ["y"])],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
        ],
    )
    nodes = [
        node("Flatten", ["image"], ["flat"]),
        node("Loop", ["rounds", "go_on", "flat"], ["looped"], body=body),
        node("MatMul", ["looped", "w"], ["logits"]),
    ]
    weights = {"rounds": np.array(10**12), "go_on": np.array(True), "w": np.zeros((192, 4), np.float32)}
    return build(nodes, weights)


def multiplied() -> onnx.ModelProto:
    """A long chain of products of constants, folded at load."""
    nodes = [node("MatMul", [f"m{i}", "m0"], [f"m{i + 1}"]) for i in range(4000)]
    nodes += [
        node("ReduceMean", ["m4000"], ["mean"], keepdims=0),
        node("Flatten", ["image"], ["flat"]),
        node("MatMul", ["flat", "w"], ["plain"]),
        node("Add", ["plain", "mean"], ["logits"]),
    ]
    return build(nodes, {"m0": np.eye(1000, dtype=np.float32), "w": np.zeros((192, 4), np.float32)})


def run(*arguments: object) -> tuple[int, str, float]:
    """The command in a process of its own: exit code, stderr, seconds."""
    started = time.monotonic()
    finished = subprocess.run(
        [sys.executable, "-m", "patcher", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    return finished.returncode, finished.stderr, time.monotonic() - started


@pytest.mark.parametrize("model", [endless, multiplied])
def test_inspect_and_verify_are_ended(tmp_path: Path, model) -> None:
    onnx.save(model(), tmp_path / "model.onnx")
    np.savez(tmp_path / "clean.npz", images=np.zeros((8, 8, 8, 3), np.uint8), labels=np.arange(8) % 4)
    for command in (["inspect"], ["verify", tmp_path / "model.onnx", "--clean-dir", tmp_path / "clean.npz"]):
        code, errors, seconds = run(command[0], tmp_path / "model.onnx", *command[1:], "--timeout", SECONDS / 3)
        assert code == 2
        assert errors.count("\n") == 1
        assert "--timeout" in errors
        assert seconds < 10 * SECONDS


def test_what_the_child_leaves_is_handed_on(tmp_path: Path) -> None:
    code, errors, _ = run("inspect", tmp_path / "none.onnx")
    assert code == 2
    assert "model not found" in errors


def test_memory_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "memory_budget", lambda share: 64 * 2**20)
    child = os.fork()
    if not child:
        held = bytearray()
        while True:
            held.extend(b"x" * 2**22)
            time.sleep(0.005)
    with pytest.raises(Exception, match="GiB of memory"):
        watch._wait(child, 60)
    os.waitpid(child, 0)


def test_a_crash_is_one_line() -> None:
    child = os.fork()
    if not child:
        # pytest's fault handler would print a page for a crash that is wanted.
        faulthandler.disable()
        os.abort()
    with pytest.raises(Exception, match="signal"):
        watch._wait(child, 60)


def test_a_batch_beyond_reason_is_refused_before_anything_counts_to_it(tmp_path: Path) -> None:
    nodes = [
        node("Shape", ["image"], ["lengths"]),
        node("Gather", ["lengths", "zero"], ["length"]),
        node("Range", ["zero", "length", "one"], ["rows"]),
        node("Cast", ["rows"], ["numbers"], to=int(TensorProto.FLOAT)),
        node("ReduceMean", ["numbers"], ["mean"], keepdims=0),
        node("Flatten", ["image"], ["flat"]),
        node("MatMul", ["flat", "w"], ["plain"]),
        node("Add", ["plain", "mean"], ["logits"]),
    ]
    model = build(nodes, {"zero": np.array(0), "one": np.array(1), "w": np.zeros((192, 4), np.float32)})
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2**33
    onnx.save(model, tmp_path / "model.onnx")
    code, errors, seconds = run("inspect", tmp_path / "model.onnx")
    assert code == 2
    assert "over 2^31 elements" in errors
    assert seconds < 10 * SECONDS
