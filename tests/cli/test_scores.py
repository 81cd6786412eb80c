# SPDX-License-Identifier: Apache-2.0
"""Every command takes the output that ``--scores`` names."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

import patcher
from patcher.patch import read_patch
from patcher.report.harden.rows import before_after
from tests.cli.conftest import Run
from tests.fleet.fakes import HereEngine
from tests.tiny_models import RESIDUAL_SHAPES, build, head, node, residual_nodes, weights_of


@pytest.fixture
def two_heads(tmp_path):
    """A model with two heads, and pictures; the second head has five classes."""
    tail = [
        *head("r2"),
        node("Gemm", ["flat", "fc1", "fc1_bias"], ["raw"], transB=1),
        node("Relu", ["raw"], ["hidden"]),
        node("Gemm", ["hidden", "fc2", "fc2_bias"], ["second"], transB=1),
    ]
    shapes = RESIDUAL_SHAPES | {"fc1": (8, 6), "fc1_bias": (8,), "fc2": (5, 8), "fc2_bias": (5,)}
    outputs = (("logits", ("N", 4)), ("second", ("N", 5)))
    proto = build([*residual_nodes()[:-3], *tail], weights_of(shapes), outputs=outputs, opset=17)
    onnx.save(proto, tmp_path / "m.onnx")
    rng = np.random.default_rng(0)
    images = (rng.random((80, 8, 8, 3)) * rng.random((80, 1, 1, 3))).astype(np.float32)
    np.savez(tmp_path / "clean.npz", images=images)
    return tmp_path


def test_the_second_head_is_hardened_measured_and_judged(two_heads, run: Run):
    model, hardened, patch = two_heads / "m.onnx", two_heads / "h.onnx", two_heads / "r" / "patch.safetensors"
    given = ("--pseudo-labels", "--scores", "second", "--clean-dir", two_heads / "clean.npz")
    assert (
        "second (logits), 5 classes"
        in json.loads(run("inspect", model, "--scores", "second", "--json").out)["class scores"]
    )
    assert run("harden", model, *given, "--steps", 2, "-o", hardened, "--report-dir", two_heads / "r", "-q").code == 0
    assert "hidden" in {item.tensor for item in read_patch(patch).corrections}
    checks = json.loads(run("verify", model, hardened, *given, "--patch", patch, "--json").out)["checks"]
    # Sixteen random pictures are held out: the two checks that count pictures cannot pass.
    assert {check["name"] for check in checks if check["status"] in ("fail", "not_run")} <= {"clean_images", "probes"}
    found = run("evaluate", hardened, *given[:-2], "--data", given[-1], "--json")
    assert json.loads(found.out)["model"]["scores"] == {"name": "second", "head": "logits", "classes": 5}
    applied = two_heads / "a.onnx"
    assert run("apply", model, patch, "--scores", "second", "-o", applied).code == 0
    assert applied.read_bytes() == hardened.read_bytes()


def test_a_scan_searches_the_classes_of_the_named_output(two_heads, run: Run):
    given = ("--scores", "second", "--report-dir", two_heads / "scan", "-q")
    assert run("scan", two_heads / "m.onnx", "--no-data", *given, "--size", "8").code == 2
    assert len(json.loads((two_heads / "scan" / "scan.json").read_text())["scores"]) == 5


def test_an_output_that_is_none_is_refused_by_every_command(two_heads, run: Run):
    model, clean = two_heads / "m.onnx", two_heads / "clean.npz"
    for command in (
        ("inspect", model),
        ("harden", model, "--clean-dir", clean),
        ("harden", model, "--clean-dir", clean, "--dry-run"),
        ("calibrate", model, "--clean-dir", clean, "-o", two_heads / "p.safetensors"),
        ("compare", model, "--clean-dir", clean, "--method", "unit", "--method", "nft"),
        ("scan", model, "--clean-dir", clean),
        ("verify", model, model, "--clean-dir", clean),
        ("evaluate", model, "--data", clean),
        ("audit-data", model, "--train-dir", clean),
    ):
        found = run(*command, "--scores", "third")
        assert (found.code, "('logits', 'second') expected, found 'third'" in found.err) == (2, True), found.err


def test_a_fleet_takes_it_for_each_model(two_heads):
    table = {
        "results": str(two_heads / "results"),
        "defaults": {"do": ["harden"], "clean_dir": str(two_heads / "clean.npz"), "pseudo_labels": True},
        "models": [{"path": str(two_heads / "m.onnx"), "scores": "second", "harden": {"steps": 2}}],
    }
    (found,) = patcher.fleet(table, engine=HereEngine())
    assert found.verdict == "pass", found.entry
    report = json.loads((found.folder / "harden" / "report.json").read_text())
    assert report["model"]["scores"]["name"] == "second"


def test_other_outputs_keep_their_answers_too(two_heads):
    """Bounds on shared layers reach every head; a head that nobody chose must not break unseen."""
    original, clean = two_heads / "m.onnx", two_heads / "clean.npz"
    result = patcher.harden(original, clean_dir=clean, steps=2, pseudo_labels=True)
    report = result.as_json()
    assert report["model"]["scores"]["name"] == "logits"
    assert report["other_outputs"]["second"]["count"] == 80
    assert ("agreement in the output second", "") in {row[:2] for row in before_after(report)}

    proto = onnx.load(original)
    for tensor in proto.graph.initializer:
        if tensor.name.startswith("fc2"):
            tensor.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(tensor), tensor.name))
    onnx.save(proto, two_heads / "broken.onnx")
    found = patcher.verify(original, two_heads / "broken.onnx", clean_dir=clean, pseudo_labels=True)
    (agreement,) = (check for check in found.checks if check.name == "agreement")
    assert (agreement.status, agreement.message.endswith("keep their class in the output 'second'")) == ("fail", True)
