# SPDX-License-Identifier: Apache-2.0
"""Two methods side by side on the digits sample, and what a patch of masks looks like."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

import patcher
from patcher.commands.compare import compare
from patcher.errors import InputError
from tests.cli.conftest import Run
from tests.report.page.reading import report_page


@pytest.fixture(scope="module")
def compared(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the better of two hardened samples and the reports of both."""
    folder = tmp_path_factory.mktemp("compared")
    found = compare(
        samples / "digits.onnx",
        clean_dir=samples / "clean",
        methods=("nft", "unit"),
        output=folder / "digits.onnx",
        report_dir=folder / "report",
        triggered=samples / "triggered.npz",
        steps=20,
        minibatch=32,
        epsilon=0.1,
    )
    assert found.best == "unit"
    assert [row[0] for row in found.rows()][:2] == ["verdict", "accuracy, held-out (79 images)"]
    return folder


def test_the_best_is_written(compared: Path) -> None:
    written = {entry.key: entry.value for entry in onnx.load(compared / "digits.onnx").metadata_props}
    assert written["patcher.method"] == "unit"
    reports = {name: json.loads((compared / "report" / name / "report.json").read_text()) for name in ("unit", "nft")}
    success = {name: report["after"]["attack"]["ASR"]["value"] for name, report in reports.items()}
    assert success["unit"] < success["nft"], "masks fitted on clean images alone leave this backdoor standing"
    assert {report["verdict"] for report in reports.values()} == {"pass"}
    assert "unit (best)" in (compared / "report" / "comparison.md").read_text()
    assert {"unit/report.html", "nft/report.html"} == report_page(compared / "report" / "comparison.html").attributes[
        "href"
    ]


def test_masks_cost_nothing_and_are_pictured(compared: Path, run: Run) -> None:
    folder = compared / "report" / "nft"
    report = json.loads((folder / "report.json").read_text())
    assert set(report["hardened"]["nodes_added"]) <= {"Mul", "Add"}
    assert len(report["masks"]["layers"]) == 6
    assert all(layer["floor"] <= min(layer["sorted"]) + 1e-6 for layer in report["masks"]["layers"])
    assert len(report["masks"]["most_suppressed"]) == 10
    assert (folder / "masks.png").stat().st_size > 10_000
    assert "## Masks" in (folder / "report.md").read_text()
    shown = run("show", folder / "patch.safetensors").out
    first = report["masks"]["most_suppressed"][0]
    assert first["channel"] in shown
    assert f"{first['mask']:.3f}" in shown
    assert json.loads(run("show", folder / "patch.safetensors", "--json").out)["masks"] == report["masks"]


def test_multiplied_weights_add_no_node(samples: Path) -> None:
    result = patcher.harden(
        samples / "digits.onnx", clean_dir=samples / "clean", method="nft", mask="plain", mask_form="weights", steps=5
    )
    assert result.report.as_json()["hardened"]["nodes_added"] == {}


def test_one_method_is_no_comparison(samples: Path, tmp_path: Path, run: Run) -> None:
    with pytest.raises(InputError, match="two or more"):
        compare(samples / "digits.onnx", clean_dir=samples / "clean", methods=("unit",))
    outcome = run("compare", samples / "digits.onnx", "--clean-dir", samples / "clean", "--method", "unit")
    assert outcome.code == 2


def test_a_method_that_misses_its_condition_is_not_written(samples: Path, tmp_path: Path, run: Run) -> None:
    outcome = run(
        "compare", samples / "digits.onnx", "--clean-dir", samples / "clean", "--method", "unit", "--method", "nft",
        "--steps", 0, "--z", 1e-6, "-o", tmp_path / "o.onnx",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "nft: the first that met" in outcome.out
    written = {entry.key: entry.value for entry in onnx.load(tmp_path / "o.onnx").metadata_props}
    assert written["patcher.method"] == "nft"


def test_a_flag_of_neither_method_is_refused(samples: Path, run: Run) -> None:
    outcome = run(
        "compare", samples / "digits.onnx", "--clean-dir", samples / "clean", "--method", "unit", "--method", "nft",
        "--answer", 1,
    )  # fmt: skip
    assert outcome.code == 2
    assert "bna" in outcome.err
