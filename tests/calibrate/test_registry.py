# SPDX-License-Identifier: Apache-2.0
"""A method of another package: installed beside this one, it is found, fitted, baked, and passes the gate."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from patcher.calibrate import METHODS, Method, register
from tests.tiny_models import residual_model

FILES = {
    "toy/__init__.py": """
from patcher.calibrate import Method

METHOD = Method("toy", "activation", "bounds far above the mean", module="toy")
""",
    "toy/options.py": """
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Options:
    toy_deviations: float = field(default=4.0, metadata={"help": "standard deviations above the mean"})
""",
    "toy/method.py": """
from patcher.calibrate import Calibration
from patcher.calibrate.statistics import stream_moments
from patcher.patch import UpperBound
from toy.options import Options


def calibrate(run, sites, clean_set, options):
    batches = run.classifier.batches(clean_set, clean_set.fit, run.batch_size)
    moments = stream_moments(run.classifier, sites, batches)
    bounds = []
    for site in sites:
        found = moments[site.tensor]
        bounds.append(UpperBound(site.tensor, (found.mean + options.toy_deviations * found.std).float().numpy()))
    return Calibration(tuple(bounds), True, 1.0, 1.0)
""",
    "toy-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n",
    "toy-1.0.dist-info/entry_points.txt": "[patcher.methods]\ntoy = toy:METHOD\n",
}


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    onnx.save(residual_model(), tmp_path / "model.onnx")
    images = np.random.default_rng(0).integers(0, 256, (80, 3, 8, 8), np.uint8)
    np.savez(tmp_path / "clean.npz", images=images, labels=np.arange(80) % 4)
    return tmp_path


def patcher(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, with `folder` as a place of installed packages."""
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-m", "patcher", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_method_of_another_package_hardens_and_passes_the_gate(workplace: Path) -> None:
    common = ("--clean-dir", "clean.npz", "--accuracy-floor", "0")
    made = patcher(
        workplace,
        "harden",
        "model.onnx",
        *common,
        "--method",
        "toy",
        "--toy-deviations",
        "5",
        "--bake",
        "nodes",
        "-o",
        "out.onnx",
    )
    assert made.returncode == 0, made.stdout + made.stderr
    added = [node.op_type for node in onnx.load(workplace / "out.onnx").graph.node]
    assert added.count("Min") == 2
    assert _gate(workplace, common) == {"provenance": "pass", "graph": "pass", "weights": "pass", "patch": "pass"}
    # Where the package is not installed, nobody vouches for its patch.
    (workplace / "toy-1.0.dist-info" / "entry_points.txt").unlink()
    refused = _gate(workplace, common)
    assert (refused["provenance"], refused["patch"]) == ("fail", "fail")


def _gate(workplace: Path, common: Sequence[str]) -> dict[str, str]:
    """What the gate says of the file's origin; whether a net without training is to be released is no question."""
    named = ("--patch", "out.report/patch.safetensors", "--report-dir", "gate")
    patcher(workplace, "verify", "model.onnx", "out.onnx", *common, *named)
    checks = json.loads((workplace / "gate" / "report.json").read_text())["checks"]
    return {
        item["name"]: item["status"] for item in checks if item["name"] in ("provenance", "graph", "weights", "patch")
    }


def test_a_method_that_cannot_be_loaded_is_named_and_left_out(workplace: Path) -> None:
    (workplace / "toy" / "__init__.py").write_text("METHOD = None\n", encoding="utf-8")
    (workplace / "toy-1.0.dist-info" / "entry_points.txt").write_text("[patcher.methods]\ntoy = toy:WRONG\n")
    listed = patcher(workplace, "harden", "model.onnx", "--clean-dir", "clean.npz", "--method", "toy")
    assert listed.returncode == 2
    assert "the method toy (toy:WRONG) is left out" in listed.stderr


def test_a_name_is_given_once() -> None:
    before = dict(METHODS)
    register(METHODS["unit"])
    with pytest.raises(ValueError, match="'unit' is registered already"):
        register(Method("unit", "channel", "another"))
    assert dict(METHODS) == before
