# SPDX-License-Identifier: Apache-2.0
"""The gate on classifiers that were trained with and without a backdoor, hardened by UNIT for real."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.gate import tampering
from tests.gate.conftest import Pair, Tamper, failures, gate, harden
from tests.gate.test_verify import UNTIMED

SOME = {"limit_per_class": 60}


@pytest.fixture(scope="module")
def badnets(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """`badnets_r18`, hardened with few images and steps; a ready one may be named in the environment."""
    original, clean = shared / "zoo" / "badnets_r18.onnx", shared / "cifar10" / "clean"
    if ready := os.environ.get("PATCHER_HARDENED_BADNETS"):
        return Pair(original, Path(ready), Path(ready).parent / "report" / "patch.safetensors", clean)
    return harden(original, clean, tmp_path_factory.mktemp("badnets"), steps=50, limit_per_class=60)


def test_the_hardened_model_passes_the_default_policy(badnets: Pair, shared: Path, tmp_path: Path) -> None:
    triggered = shared / "zoo" / "badnets_r18.triggered.npz"
    result = gate(badnets, badnets.hardened, tmp_path, patch=badnets.patch, triggered=triggered, target=9, **SOME)
    assert {check.name for check in result.checks if check.failed} <= UNTIMED, result.report.reasons


@pytest.mark.parametrize(("name", "target"), [("badnets_r18", 9), ("blend_r18", 3)])
def test_unhardened_models_fail_on_the_probes(shared: Path, tmp_path: Path, name: str, target: int) -> None:
    original = shared / "zoo" / f"{name}.onnx"
    pair = Pair(original, original, original, shared / "cifar10" / "clean")
    result = gate(pair, original, tmp_path, **SOME)
    probes = next(check for check in result.checks if check.name == "probes")
    assert probes.status == "fail"
    assert probes.details["worst"][0]["target"] == target


def test_a_clean_model_passes_the_probes(shared: Path, tmp_path: Path) -> None:
    original = shared / "zoo" / "clean_r18.onnx"
    pair = Pair(original, original, original, shared / "cifar10" / "clean")
    assert failures(pair, original, tmp_path, **SOME) - UNTIMED == {"provenance", "reconstruction"}


@pytest.mark.parametrize(
    ("tamper", "expected"),
    [
        (tampering.bounds_removed, "probes"),
        (tampering.one_weight_changed, "weights"),
        (tampering.output_inserted_first, "interface"),
        (tampering.labels_swapped, "accuracy"),
        (tampering.source_forged, "provenance"),
    ],
)
def test_tampering_fails_on_the_right_check(badnets: Pair, tmp_path: Path, tamper: Tamper, expected: str) -> None:
    model = onnx.load(badnets.hardened)
    tamper(model)
    assert expected in failures(badnets, model, tmp_path, **SOME)


def test_quantisation_with_defaults_is_noticed(badnets: Pair, shared: Path, tmp_path: Path) -> None:
    images = np.load(shared / "cifar10" / "test.npz")["images"][:32].transpose(0, 3, 1, 2).astype(np.float32) / 255
    tampering.quantized(badnets.hardened, tmp_path / "quantized.onnx", [{"input": images}])
    assert "graph" in failures(badnets, tmp_path / "quantized.onnx", tmp_path, **SOME)
