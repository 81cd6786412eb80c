# SPDX-License-Identifier: Apache-2.0
"""The commands on the digits sample, as a user types them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import patcher
from tests.cli.conftest import Run
from tests.report.page.reading import report_page


@pytest.fixture(scope="module")
def hardened(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one hardened sample and its report."""
    folder = tmp_path_factory.mktemp("hardened")
    patcher.harden(
        samples / "digits.onnx",
        clean_dir=samples / "clean",
        output=folder / "digits.onnx",
        report_dir=folder / "report",
        triggered=samples / "triggered.npz",
        steps=100,
    )
    return folder


def report(folder: Path) -> dict:
    return json.loads((folder / "report" / "report.json").read_text())


def test_the_backdoor_is_disarmed_and_accuracy_kept(hardened: Path) -> None:
    found = report(hardened)
    assert found["verdict"] == "pass"
    assert found["before"]["attack"]["ASR"]["value"] >= 0.95
    assert found["after"]["attack"]["ASR"]["value"] <= 0.1
    assert found["after"]["attack"]["SIA"]["value"] >= 0.85
    assert found["after"]["held_out"]["value"] >= found["before"]["held_out"]["value"] - 0.02
    assert found["hardened"]["bounds"]["folded"] == 6
    assert "Min" not in found["hardened"]["nodes_added"]
    assert any("bounds baked as folded weights: 2 passes" in note for note in found["notes"])


def test_the_output_is_a_drop_in(hardened: Path, samples: Path) -> None:
    before, after = onnx.load(samples / "digits.onnx"), onnx.load(hardened / "digits.onnx")
    assert list(before.graph.input) == list(after.graph.input)
    assert list(before.graph.output) == list(after.graph.output)
    assert (before.ir_version, list(before.opset_import)) == (after.ir_version, list(after.opset_import))
    assert {entry.key for entry in after.metadata_props} >= {"patcher.method", "patcher.source_sha256"}


def test_the_report_folder_is_complete(hardened: Path) -> None:
    names = {path.name for path in (hardened / "report").iterdir()}
    assert names == {"report.json", "report.md", "report.html", "activations.png", "curve.png", "patch.safetensors"}
    assert {"activations.png", "curve.png"} <= report_page(hardened / "report" / "report.html").attributes["alt"]
    text = (hardened / "report" / "report.md").read_text()
    for name in ("activations.png", "curve.png", report(hardened)["hardened"]["sha256"]):
        assert name in text


def test_same_seed_same_bytes(hardened: Path, samples: Path, tmp_path: Path) -> None:
    again = patcher.harden(
        samples / "digits.onnx", clean_dir=samples / "clean", steps=100, triggered=samples / "triggered.npz"
    )
    again.save(tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (hardened / "digits.onnx").read_bytes()
    first, second = report(hardened), again.report.as_json()
    for document in (first, second):
        document.pop("timings")
    assert first == json.loads(json.dumps(second))


def test_harden_writes_beside_the_model_by_default(samples: Path, tmp_path: Path, run: Run) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes((samples / "digits.onnx").read_bytes())
    outcome = run("harden", model, "--clean-dir", samples / "clean", "--steps", 0)
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "m.hardened.onnx").is_file()
    assert (tmp_path / "m.hardened.report" / "report.md").is_file()
    assert "accuracy, held-out" in outcome.out


def test_an_unmet_condition_exits_1_and_writes_no_model(samples: Path, tmp_path: Path, run: Run) -> None:
    arguments = ("--clean-dir", samples / "clean", "--steps", 0, "--z", 1e-6, "-o", tmp_path / "o.onnx")
    outcome = run("harden", samples / "digits.onnx", *arguments)
    assert outcome.code == 1
    assert "FAIL" in outcome.err
    assert not (tmp_path / "o.onnx").exists()
    assert json.loads((tmp_path / "o.report" / "report.json").read_text())["verdict"] == "fail"


def test_calibrate_apply_show_equal_harden(hardened: Path, samples: Path, tmp_path: Path, run: Run) -> None:
    patch = tmp_path / "p.safetensors"
    assert (
        run("calibrate", samples / "digits.onnx", "--clean_dir", samples / "clean", "--steps", 100, "-o", patch).code
        == 0
    )
    assert run("apply", samples / "digits.onnx", patch, "-o", tmp_path / "out.onnx").code == 0
    assert (tmp_path / "out.onnx").read_bytes() == (hardened / "digits.onnx").read_bytes()
    shown = json.loads(run("show", patch, "--json").out)
    assert shown["patch_sha256"] == report(hardened)["patch_sha256"]
    assert [item["correction"] for item in shown["corrections"]] == ["UpperBound"] * 6
    assert "UpperBound" in run("show", patch).out


def test_a_patch_of_another_model_is_refused(hardened: Path, tmp_path: Path, run: Run) -> None:
    patch = hardened / "report" / "patch.safetensors"
    outcome = run("apply", hardened / "digits.onnx", patch, "-o", tmp_path / "out.onnx")
    assert outcome.code == 2
    assert "another model" in outcome.err or "sha256" in outcome.err


def test_evaluate_prints_acc_asr_sia(hardened: Path, samples: Path, run: Run) -> None:
    outcome = run(
        "evaluate", hardened / "digits.onnx", "--data", samples / "test.npz",
        "--triggered", samples / "triggered.npz", "--json",
    )  # fmt: skip
    found = json.loads(outcome.out)
    assert found["ACC"]["value"] >= 0.93
    assert found["ASR"]["value"] <= 0.1
    assert found["ASR"]["value"] == pytest.approx(report(hardened)["after"]["attack"]["ASR"]["value"])
    table = run("evaluate", hardened / "digits.onnx", "--data", samples / "test.npz").out
    assert "ACC" in table
    assert "ASR" not in table


def test_inspect_lists_sites_and_methods(hardened: Path, samples: Path, run: Run) -> None:
    found = json.loads(run("inspect", samples / "digits.onnx", "--json").out)
    assert sum(site["kind"] == "activation" for site in found["sites"]) == 6
    assert found["methods"]["unit"].startswith("yes")
    assert "method unit" in run("inspect", hardened / "digits.onnx").out


def test_a_dry_run_prints_the_plan_and_writes_nothing(samples: Path, tmp_path: Path, run: Run) -> None:
    outcome = run(
        "harden", samples / "digits.onnx", "--clean-dir", samples / "clean", "-o", tmp_path / "o.onnx", "--dry-run"
    )
    assert outcome.code == 0
    assert "activation" not in outcome.err
    assert "held out" in outcome.out
    assert list(tmp_path.iterdir()) == []


def test_pseudo_labels_are_said(samples: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for index, picture in enumerate(sorted((samples / "clean").rglob("*.png"))[::4]):
        (flat / f"{index}.png").write_bytes(picture.read_bytes())
    result = patcher.harden(samples / "digits.onnx", clean_dir=flat, pseudo_labels=True, steps=0)
    assert result.report.as_json()["clean_set"]["pseudo_labels"]


def test_models_come_as_bytes_and_protos_too(samples: Path) -> None:
    content = (samples / "digits.onnx").read_bytes()
    images = np.load(samples / "test.npz")
    assert len(images["labels"])
    for model in (content, onnx.load_from_string(content)):
        assert patcher.evaluate(model, data=samples / "test.npz").as_json()["ACC"]["value"] > 0.9


@pytest.mark.parametrize("command", ["inspect", "show", "--version", "--help"])
def test_light_commands_start_without_torch(samples: Path, hardened: Path, command: str) -> None:
    targets = {"inspect": [samples / "digits.onnx"], "show": [hardened / "report" / "patch.safetensors"]}
    arguments = [command, *map(str, targets.get(command, []))]
    code = f"import sys; from patcher._cli import main; main({arguments!r}); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
