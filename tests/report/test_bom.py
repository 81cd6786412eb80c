# SPDX-License-Identifier: Apache-2.0
"""The ML-BOM of a hardened model, against the schema of its standard."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from patcher._cli import main
from patcher.errors import InputError
from patcher.export.apply import apply_patch
from patcher.model.file import load_file, write_model
from patcher.model.model import read_model
from patcher.patch import Patch, UpperBound, patch_sha256
from patcher.report.verify.bom import bill_of_materials
from tests.tiny_models import images, residual_model

pytest.importorskip("cyclonedx")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Patch]:
    """A folder with original, hardened file, clean images, and two BOMs of equal runs."""
    folder = tmp_path_factory.mktemp("bom")
    onnx.save(residual_model(), folder / "model.onnx")
    model = read_model(folder / "model.onnx")
    bound = UpperBound("r1", np.full((1, 6, 1, 1), 0.5, np.float32))
    patch = Patch("unit", model.sha256, (bound,), {}, "0" * 64, {})
    write_model(apply_patch(model, patch), folder / "hardened.onnx")
    pixels = (images(64).transpose(0, 2, 3, 1) * 255).astype(np.uint8)
    np.savez(folder / "clean.npz", images=pixels, labels=np.arange(64) % 4)
    command = ["verify", str(folder / "model.onnx"), str(folder / "hardened.onnx"), "--quiet"]
    command += ["--clean-dir", str(folder / "clean.npz"), "--accuracy-floor", "0"]
    for name in ("first.json", "second.json"):
        main([*command, "--bom", str(folder / name), "--report-dir", str(folder / "report")])
    return folder, patch


def test_it_is_valid(made: tuple[Path, Patch]) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    for name in ("first.json", "second.json"):
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str((made[0] / name).read_text()) is None


def test_it_names_the_model_its_ancestor_and_its_patch(made: tuple[Path, Patch]) -> None:
    folder, patch = made
    (model,) = json.loads((folder / "first.json").read_text())["components"]
    assert (model["type"], model["name"]) == ("machine-learning-model", "hardened.onnx")
    assert model["hashes"] == [{"alg": "SHA-256", "content": load_file(folder / "hardened.onnx")[1]}]
    (ancestor,) = model["pedigree"]["ancestors"]
    assert ancestor["hashes"] == [{"alg": "SHA-256", "content": load_file(folder / "model.onnx")[1]}]
    (applied,) = model["pedigree"]["patches"]
    assert applied["diff"]["url"] == f"urn:sha256:{patch_sha256(patch)}"
    assert applied["resolves"][0]["type"] == "security"
    assert "byte for byte" in model["pedigree"]["notes"]


def test_its_figures_are_those_of_the_report(made: tuple[Path, Patch]) -> None:
    folder, _ = made
    (model,) = json.loads((folder / "first.json").read_text())["components"]
    metrics = {item["type"]: item for item in model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]}
    checks = {item["name"]: item for item in json.loads((folder / "report" / "report.json").read_text())["checks"]}
    assert float(metrics["agreement"]["value"]) == pytest.approx(checks["agreement"]["value"], rel=1e-5)
    low, high = (float(metrics["agreement"]["confidenceInterval"][key]) for key in ("lowerBound", "upperBound"))
    assert [low, high] == pytest.approx(checks["agreement"]["interval_95"], rel=1e-4)
    assert set(metrics) == {name for name, check in checks.items() if check["value"] is not None}


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cyclonedx.model", None)
    with pytest.raises(InputError, match=r"onnx-patcher\[bom\]"):
        bill_of_materials({})
