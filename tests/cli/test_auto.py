# SPDX-License-Identifier: Apache-2.0
"""``--method auto``: what it does with each verdict of a scan, and how it says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import patcher
from patcher.commands.compare import compare
from patcher.errors import InputError
from patcher.model.file import load_file
from patcher.steps import auto
from patcher.steps.fit import fit_stack
from patcher.two_files import FLAG_OUTPUT
from tests.cli.conftest import Run
from tests.tiny_models import build, images, node, weights_of

FAST = {"steps": 30, "minibatch": 32, "device": "cpu"}


@pytest.fixture(scope="module")
def scanned(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``scan.json`` of a search for patches alone."""
    folder = tmp_path_factory.mktemp("scan")
    patcher.scan(samples / "digits.onnx", clean_dir=samples / "clean", report_dir=folder, family=("patch",))
    return folder / "scan.json"


def verdict_of(model: Path, folder: Path, level: str) -> Path:
    """A ``scan.json`` that found no trigger."""
    document = {"verdict": level, "model": {"sha256": load_file(model)[1]}, "triggers": 0, "reasons": ["class 3"]}
    path = folder / "scan.json"
    path.write_text(json.dumps(document | {"searched": [{"family": "patch"}]}), encoding="utf-8")
    return path


def harden(samples: Path, scan: Path, **options: Any) -> patcher.HardenResult:
    return patcher.harden(
        samples / "digits.onnx", clean_dir=samples / "clean", method="auto", scan=str(scan), **{**FAST, **options}
    )


def test_what_a_scan_found_is_undone(samples: Path, scanned: Path, tmp_path: Path) -> None:
    result = harden(samples, scanned, triggered=samples / "triggered.npz", report_dir=tmp_path / "report", epsilon=0.05)
    assert result.passed
    assert result.attack is not None
    assert result.attack.asr.before.value == 1.0
    assert result.attack.asr.after.value < 0.1
    section = result.report.sections["auto"]
    assert section["scan"] == "backdoor"
    assert section["targets"] == [7]
    assert [item["name"] for item in section["candidates"]][:2] == ["nft", "bna"]
    assert result.patch.method == section["chosen"]
    tried = {item["name"]: item for item in section["candidates"]}
    assert section["before"]["ASR"]["value"] > 0.9 > tried[section["chosen"]]["ASR"]["value"]
    for part in ("Looked for", "patch", "class 7", "Done", "Unknown"):
        assert part in section["paragraph"]
    assert section["paragraph"] in (tmp_path / "report" / "report.md").read_text()


def test_where_no_repair_holds_the_condition_bounds_alone_are_tried(
    samples: Path, scanned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(ground: Any, stack: Any, *given: Any) -> Any:
        fitted = fit_stack(ground, stack, *given)
        lost = replace(fitted.calibration, satisfied=fitted.calibration.satisfied and stack.names == ("unit",))
        return replace(fitted, calibration=lost)

    monkeypatch.setattr(auto, "fit_stack", fit)
    result = harden(samples, scanned, epsilon=0.05)
    assert result.passed
    assert result.patch.method == "unit"
    assert [item["name"] for item in result.report.sections["auto"]["candidates"]] == ["nft", "bna", "unit"]


def test_asked_for_a_flag_the_result_has_one(samples: Path, scanned: Path) -> None:
    result = harden(samples, scanned, flag=True, epsilon=0.05)
    assert result.model.graph.output[-1].name == FLAG_OUTPUT
    tried = {item["name"] for item in result.report.sections["auto"]["candidates"]}
    assert {"nft+unit", "bna"} <= tried
    assert "nft" not in tried


@pytest.mark.parametrize(("level", "epsilon"), [("clean", 0.002), ("suspicious", 0.01)])
def test_where_nothing_was_found_bounds_cost_next_to_nothing(
    samples: Path, tmp_path: Path, level: str, epsilon: float
) -> None:
    result = harden(samples, verdict_of(samples / "digits.onnx", tmp_path, level))
    section = result.report.sections["auto"]
    assert result.passed
    assert section["chosen"] == result.patch.method == "unit"
    assert section["epsilon"] == pytest.approx(epsilon)
    assert result.patch.options["epsilon"] == pytest.approx(epsilon)
    assert result.accuracy.before.value - result.accuracy.after.value <= epsilon + 1e-6
    assert ("Found: nothing" in section["paragraph"]) == (level == "clean")


@pytest.fixture
def linear(tmp_path: Path) -> Path:
    """A classifier without any activation, and images that it gets right."""
    nodes = [node("Flatten", ["image"], ["flat"]), node("MatMul", ["flat", "w"], ["logits"])]
    model = build(nodes, weights_of({"w": (192, 4)}))
    onnx.save(model, tmp_path / "linear.onnx")
    pixels = images(80)
    labels = (pixels.reshape(80, -1) @ weights_of({"w": (192, 4)})["w"]).argmax(axis=1)
    np.savez(
        tmp_path / "clean.npz", images=(pixels * 255).round().astype(np.uint8).transpose(0, 2, 3, 1), labels=labels
    )
    return tmp_path / "linear.onnx"


def test_where_nothing_is_justified_the_model_stays_as_it_is(linear: Path, run: Run) -> None:
    folder = linear.parent
    given = ("--clean-dir", folder / "clean.npz", "--method", "auto", "-o", folder / "out.onnx")
    found = run("harden", linear, *given, "--scan", verdict_of(linear, folder, "clean"))
    assert found.code == 0, found.err
    assert "unchanged" in found.out
    assert "byte for byte" in " ".join(found.out.split())
    assert (folder / "out.onnx").read_bytes() == linear.read_bytes()
    # With reasons for suspicion it is no success that nothing can be done.
    found = run("harden", linear, *given, "--scan", verdict_of(linear, folder, "suspicious"))
    assert found.code == 3
    assert "a backdoor is suspected, and nothing applies" in found.err


def test_compare_shows_the_candidates(samples: Path, scanned: Path, tmp_path: Path) -> None:
    found = compare(
        samples / "digits.onnx", clean_dir=samples / "clean", methods=("auto",), report_dir=tmp_path / "report",
        scan=str(scanned), epsilon=0.05, **FAST,
    )  # fmt: skip
    assert found.passed
    text = (tmp_path / "report" / "comparison.md").read_text()
    assert "| nft |" in text
    assert "| bna |" in text


def test_wrong_options_are_refused_before_the_scan(samples: Path, run: Run) -> None:
    with pytest.raises(InputError, match="method auto: unknown options rounds"):
        harden(samples, Path("nowhere"), rounds=3)
    given = ("harden", samples / "digits.onnx", "--clean-dir", samples / "clean", "--method", "auto")
    assert "--rounds: belongs to --method none" in run(*given, "--rounds", 3).err
    assert "--epsilon" in run(*given, "--epsilon", 7).err
    assert "needs clean images" in run("harden", samples / "digits.onnx", "--method", "auto").err
    assert "scan.json" in run(*given, "--scan", "nowhere.json").err
