# SPDX-License-Identifier: Apache-2.0
"""A family that nobody here knows, registered from outside, goes through every command like a built-in one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from patcher.triggers import family as registry
from patcher.triggers.family import Family, Panel
from patcher.triggers.file import read_triggers
from tests.cli.conftest import Run

SAMPLES = Path(__file__).resolve().parents[2] / "samples"
MODEL, CLEAN = SAMPLES / "digits.onnx", SAMPLES / "clean"


class Corner(Family):
    """Four pixels of the lower right corner, each made lighter or darker by a number of its own."""

    name, unit = "corner", "largest step"
    rate = 0.05
    cap = 1.0

    def layout(self, shape):
        return {"steps": (2, 2)}

    def start(self, count, shape, rng):
        return {"steps": 0.01 * rng.standard_normal((count, 2, 2), np.float32)}

    def values(self, parameters):
        return {"steps": parameters["steps"].clip(-1, 1)}

    def apply(self, images, values):
        corner = images * 0
        corner[:, :, -2:, -2:] += values["steps"][:, None]
        return (images + corner).clip(0, 1)

    def size(self, values, images):
        return (values["steps"] * values["steps"]).mean((1, 2)) ** 0.5

    def amplify(self, values, gain):
        return {"steps": (values["steps"] * gain).clip(-1, 1)}

    def panels(self, values, shape):
        return [Panel("steps, grey is 0", 0.5 + 0.5 * values["steps"])]


@pytest.fixture(scope="module", autouse=True)
def corner() -> Iterator[None]:
    registry.families()
    registry.register(Corner())
    yield
    del registry._REGISTERED["corner"]


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from patcher._cli import main

    folder = tmp_path_factory.mktemp("own") / "scan"
    arguments = ["scan", str(MODEL), "--clean-dir", str(CLEAN), "--report-dir", str(folder), "-q"]
    assert main([*arguments, "--family", "corner", "--steps", "40", "--seeds", "2"]) == 1
    return folder


def test_it_is_searched_told_pictured_and_kept(scanned: Path) -> None:
    report = json.loads((scanned / "scan.json").read_text())
    assert [item["target"] for item in report["targets"] if item["verdict"] == "backdoor"] == [7]
    [searched] = report["searched"]
    assert searched["family"] == "corner"
    assert searched["stopped"]
    assert (scanned / "trigger-7.png").exists()
    triggers = read_triggers(scanned / "triggers.npz")
    assert {(item.family, item.target) for item in triggers} == {("corner", 7)}


def test_evaluate_puts_it_into_pictures(run: Run, scanned: Path) -> None:
    outcome = run("evaluate", MODEL, "--data", CLEAN, "--triggered", scanned / "triggers.npz", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["ASR"]["value"] >= 0.9


@pytest.mark.parametrize(("method", "steps"), [("nft", "30"), ("bna", "5")])
def test_a_method_undoes_it_and_the_gate_tries_it(run: Run, scanned: Path, tmp_path: Path, method, steps) -> None:
    hardened = tmp_path / "out.onnx"
    outcome = run(
        "harden", MODEL, "--clean-dir", CLEAN, "--method", method, "--scan", scanned / "scan.json", "--steps", steps,
        "-o", hardened, "--report-dir", tmp_path / "report", "--epsilon", "0.2",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    outcome = run(
        "verify", MODEL, hardened, "--clean-dir", CLEAN, "--triggers", scanned / "triggers.npz", "--json",
        "--report-dir", tmp_path / "gate",
    )  # fmt: skip
    [check] = [item for item in json.loads(outcome.out)["checks"] if item["name"] == "scanned_triggers"]
    rows = check["details"]["triggers"]
    assert {row["family"] for row in rows} == {"corner"}
    assert all(row["after"]["value"] < row["before"]["value"] / 2 for row in rows)
