# SPDX-License-Identifier: Apache-2.0
"""Hostile input to every command: exit code 2, one line, in time, and no file anywhere."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from patcher._cli import _COMMANDS
from tests import hostile
from tests.tiny_models import residual_model

SECONDS = 120.0  # wall time of a process on a busy machine; the processor time is limited below
PROCESSOR_SECONDS = 12  # ten, and the start
ADDRESS_SPACE = 8 * 2**30  # torch alone reserves several GiB of addresses; resident memory is far below


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sound model, images and a patch for it."""
    from patcher.model.model import read_model
    from patcher.patch import Patch, UpperBound, write_patch

    folder = tmp_path_factory.mktemp("good")
    onnx.save(residual_model(), folder / "model.onnx")
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3)).astype(np.uint8)
    np.savez(folder / "images.npz", images=images, labels=np.arange(40) % 4)
    model = read_model(folder / "model.onnx")
    bound = UpperBound("r1", np.ones((1, 6, 1, 1), np.float32))
    write_patch(Patch("unit", model.sha256, (bound,)), folder / "patch.safetensors")
    return folder


def commands(good: Path, output: Path, model: Path | None = None, data: Path | None = None) -> dict[str, list[object]]:
    """Every command that reads a model or images, with the sound files in the other places."""
    source, images = model or good / "model.onnx", data or good / "images.npz"
    clean = ["--clean-dir", images, "--accuracy-floor", "0"]
    found: dict[str, list[object]] = {
        "harden": ["harden", source, *clean, "-o", output / "out.onnx", "--steps", 1, "-q"],
        "calibrate": ["calibrate", source, *clean, "-o", output / "out.safetensors", "--steps", 1, "-q"],
        "evaluate": ["evaluate", source, "--data", images, "--accuracy-floor", "0"],
        "verify original": ["verify", source, good / "model.onnx", *clean],
        "verify triggered": [
            "verify",
            good / "model.onnx",
            good / "model.onnx",
            "--clean-dir",
            good / "images.npz",
            "--accuracy-floor",
            "0",
            "--triggered",
            images,
            "--target",
            1,
        ],
    }
    if model is not None:
        del found["verify triggered"]
        found["inspect"] = ["inspect", source]
        found["apply"] = ["apply", source, good / "patch.safetensors", "-o", output / "out.onnx"]
        found["verify hardened"] = ["verify", good / "model.onnx", source, *clean]
    if "scan" in _COMMANDS:
        found["scan"] = ["scan", source, "--clean-dir", images, "--accuracy-floor", "0"]
    return found


def _limits() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_SECONDS, PROCESSOR_SECONDS))


def refused(arguments: list[object], folder: Path) -> None:
    """Run in a process of its own with bounded memory; nothing may be written to `folder`."""
    before = sorted(folder.rglob("*"))
    finished = subprocess.run(
        [sys.executable, "-m", "patcher", *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=_limits,
    )
    what = " ".join(map(str, arguments[:2]))
    assert finished.returncode == 2, f"{what}: {finished.returncode} {finished.stderr}"
    assert finished.stderr.startswith("patcher: error: "), finished.stderr
    assert finished.stderr.count("\n") == 1, finished.stderr
    assert "unexpected" not in finished.stderr, finished.stderr
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("kind", hostile.MODELS)
def test_a_hostile_model_is_refused_by_the_command_that_reads_it_first(good: Path, tmp_path: Path, kind: str) -> None:
    refused(["inspect", hostile.MODELS[kind](tmp_path)], tmp_path)


@pytest.mark.parametrize("command", ["harden", "calibrate", "evaluate", "verify original", "verify hardened", "apply"])
@pytest.mark.parametrize("kind", ["external data above the folder", "cycle", "NaN weight", "name that is no text"])
def test_every_command_refuses_hostile_models(good: Path, run, tmp_path: Path, command: str, kind: str) -> None:
    model = hostile.MODELS[kind](tmp_path)
    before = sorted(tmp_path.rglob("*"))
    outcome = run(*commands(good, tmp_path, model=model)[command])
    assert (outcome.code, outcome.err.count("\n")) == (2, 1), outcome.err
    assert "unexpected" not in outcome.err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", hostile.DATA)
@pytest.mark.parametrize("command", ["harden", "calibrate", "evaluate", "verify original", "verify triggered"])
def test_hostile_images(good: Path, run, tmp_path: Path, monkeypatch, command: str, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    data = hostile.DATA[kind](tmp_path)
    before = sorted(tmp_path.rglob("*"))
    outcome = run(*commands(good, tmp_path, data=data)[command])
    assert (outcome.code, outcome.err.count("\n")) == (2, 1), outcome.err
    assert "unexpected" not in outcome.err
    assert sorted(tmp_path.rglob("*")) == before
    assert not (tmp_path.parent / "slipped.npy").exists()


def test_a_picture_bomb(good: Path, tmp_path: Path) -> None:
    folder = hostile.picture_bomb(tmp_path)
    refused(commands(good, tmp_path, data=folder)["evaluate"], tmp_path)


def test_the_decompression_bomb_does_not_go_off(good: Path, tmp_path: Path) -> None:
    refused(commands(good, tmp_path, data=hostile.bomb(tmp_path))["evaluate"], tmp_path)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("show", "p.safetensors"),
        ("apply", "p.safetensors"),
        ("verify", "t.npz"),
        ("verify", "p.toml"),
        ("policy", "p.toml"),
    ],
)
@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"\xff\xff\xff\xff\xff\xff\xff\x7f{}", b"[[[[" * 2000])
def test_hostile_patches_triggers_and_policies(
    good: Path, run, tmp_path: Path, command: str, name: str, content: bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    model = good / "model.onnx"
    flag = {"t.npz": "--triggers", "p.toml": "--policy"}.get(name, "")
    arguments = {
        "show": ["show", path],
        "apply": ["apply", model, path, "-o", tmp_path / "out.onnx"],
        "verify": ["verify", model, model, "--clean-dir", good / "images.npz", "--accuracy-floor", "0", flag, path],
        "policy": ["policy", "check", path],
    }[command]
    outcome = run(*arguments)
    if command == "policy" and content == b"":
        assert outcome.code == 0  # an empty policy is the default one
        return
    if command == "verify" and name == "p.toml" and content == b"":
        assert outcome.code == 1
        return
    assert (outcome.code, outcome.err.count("\n")) == (2, 1), outcome.err
    assert "unexpected" not in outcome.err
    assert [item.name for item in tmp_path.iterdir()] == [name]


def test_the_hostile_files_are_what_they_claim(tmp_path: Path) -> None:
    """The bomb would fill memory and the pickle would run, were they loaded as their makers wish."""
    assert hostile.bomb(tmp_path).stat().st_size < 1 << 16
    with np.load(hostile.pickled(tmp_path), allow_pickle=False) as file, pytest.raises(ValueError, match="pickle"):
        file["images"]


def test_control_sequences_in_names_do_not_reach_the_terminal(run, tmp_path: Path) -> None:
    model = residual_model()
    model.graph.node[0].op_type = "\x1b[2J\x07Conv"
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    outcome = run("inspect", tmp_path / "m.onnx")
    assert outcome.code == 2
    assert "\x1b" not in outcome.err
    assert "\x07" not in outcome.err
