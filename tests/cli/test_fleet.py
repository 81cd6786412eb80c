# SPDX-License-Identifier: Apache-2.0
"""``patcher fleet`` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from patcher.fleet.description import read_description
from tests.calibrate.scan.block_models import block_images, block_model
from tests.cli.conftest import Run

ROOT = Path(__file__).resolve().parents[2]
TEXT = """
results = "results"
[defaults]
clean_dir = "images.npz"
scan = { family = ["tones"], steps = 10, seeds = 1 }
[[models]]
glob = "*.onnx"
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    """``fleet.toml`` beside a model and images."""
    onnx.save(block_model(), tmp_path / "clean.onnx")
    images, labels = block_images(20)
    np.savez(
        tmp_path / "images.npz", images=np.rint(images * 255).astype(np.uint8).transpose(0, 2, 3, 1), labels=labels
    )
    (tmp_path / "fleet.toml").write_text(TEXT)
    return tmp_path / "fleet.toml"


def test_a_fleet_on_this_machine(run: Run, fleet: Path) -> None:
    outcome = run("fleet", fleet, "--workers", "1")
    assert outcome.code == 0, outcome.err
    assert "verdict: pass" in outcome.out
    again = run("fleet", fleet, "--workers", "1", "--json")
    assert again.code == 0
    document = json.loads(again.out)
    assert [model["verdict"] for model in document["models"]] == ["clean"]
    assert document["timings"]["task_s"] == {}
    assert {path.name for path in (fleet.parent / "results").iterdir()} == {
        ".cache", "clean", "fleet.html", "fleet.json", "junit.xml",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        (TEXT, ("--address", "auto"), "--address: belongs to --engine ray"),
        (TEXT, ("--workers", "0"), "workers"),
        (TEXT.replace("clean_dir", "clean-dir"), (), "unknown key 'clean-dir'"),
        (TEXT.replace("images.npz", "other.npz"), (), "file or folder not found"),
        (TEXT + '[[models]]\npath = "clean.onnx"\n', (), "two models are named 'clean'"),
        ("[[models", (), "not a TOML file"),
        (TEXT, ("--engine", "ray", "--address", "127.0.0.1:1"), "error: --"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    run: Run, fleet: Path, text: str, flags: tuple[str, ...], message: str
) -> None:
    fleet.write_text(text)
    outcome = run("fleet", fleet, *flags)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (fleet.parent / "results").exists()


def test_a_missing_description(run: Run, tmp_path: Path) -> None:
    outcome = run("fleet", tmp_path / "missing.toml")
    assert outcome.code == 2
    assert "cannot be read" in outcome.err


def test_the_sample_can_be_read() -> None:
    found = read_description(ROOT / "samples" / "fleet" / "fleet.toml")
    assert [entry.name for entry in found.models] == ["digits", "digits-compared"]


def test_the_example_of_the_page_names_known_keys(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "fleet.md").read_text(encoding="utf-8")
    for folder in ("data/clean", "other/clean", "zoo"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("a.onnx", "b.onnx", "zoo/c.onnx", "patcher.toml", "b.triggered.npz"):
        (tmp_path / name).touch()
    (tmp_path / "fleet.toml").write_text(page.split("```toml")[1].split("```")[0])
    found = read_description(tmp_path / "fleet.toml")
    assert [entry.name for entry in found.models] == ["a", "c", "b-strict"]
