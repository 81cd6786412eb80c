# SPDX-License-Identifier: Apache-2.0
"""What two runs of one model may differ by, and models with QuantizeLinear in both orders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import patcher
from patcher.data.clean_set import read_clean_set
from patcher.data.preprocess import resolve_preprocess
from patcher.errors import ParityError
from patcher.export import apply_patch, check_parity, neutral_patch
from patcher.export.parity.parity import ParityCheck, run_model
from patcher.export.parity.tolerance import allowed_share, class_agreement, output_step, precision_of
from patcher.graph.sites import find_sites
from patcher.model.model import Model, read_model
from patcher.patch import Patch, UpperBound

quantization = pytest.importorskip("onnxruntime.quantization")


@pytest.mark.parametrize(
    ("drift", "expected"), [(0.0, 1e-5), (1e-6, 1e-5), (1.48e-5, 5.92e-5), (1e-4, 2e-4), (0.3, 2e-4)]
)
def test_a_small_multiple_of_the_drift_with_a_ceiling(drift: float, expected: float) -> None:
    assert allowed_share("neutral", "single", drift=drift, step=0.0) == pytest.approx(expected)


def test_quantised_models_are_compared_in_steps() -> None:
    assert allowed_share("neutral", "quantized", drift=0.0, step=0.01) == pytest.approx(0.04)
    assert allowed_share("patched", "quantized", drift=0.02, step=0.01) == pytest.approx(0.08)
    assert allowed_share("patched", "quantized", drift=0.5, step=0.5) == pytest.approx(0.15)


def test_agreement_leaves_near_ties_out() -> None:
    wanted = np.array([[1.0, 0.0], [0.50, 0.49], [0.0, 1.0], [0.0, 2.0]])
    found = np.array([[1.0, 0.0], [0.49, 0.50], [0.0, 1.0], [2.0, 0.0]])
    assert class_agreement(found, wanted, 0.1) == pytest.approx(2 / 3)
    assert class_agreement(found[1:2], wanted[1:2], 0.1) is None
    assert class_agreement(found[:, :1], wanted[:, :1], 0.1) is None


def test_a_check_fails_where_classes_do_not_agree() -> None:
    check = ParityCheck("neutral", "logits", "all", 0.01, 1.0, 0.1, steps=1.0, agreement=0.9)
    assert not check.passed


class _Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, name: str, pixels: np.ndarray) -> None:
        self._feeds: Iterator[dict[str, Any]] = iter([{name: pixels[i : i + 10]} for i in range(0, len(pixels), 10)])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)


def quantize(source: Path, target: Path, clean: Path, kind: str) -> Path:
    """Static INT8 with QuantizeLinear and DequantizeLinear around every operator."""
    model = read_model(source)
    preprocess = resolve_preprocess(model)
    pixels = preprocess.to_input(read_clean_set(clean, model, preprocess).images())
    quantization.quantize_static(
        str(source),
        str(target),
        _Reader(model.input.name, np.ascontiguousarray(pixels)),
        quant_format=quantization.QuantFormat.QDQ,
        activation_type=getattr(quantization.QuantType, kind),
        weight_type=quantization.QuantType.QInt8,
        per_channel=kind == "QInt8",
    )
    return target


@pytest.fixture(scope="module")
def quantized(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("quantized") / "digits.onnx"
    return quantize(samples / "digits.onnx", target, samples / "clean", "QUInt8")


def test_the_step_of_an_output_is_its_dequantisers(quantized: Path) -> None:
    model = read_model(quantized)
    assert precision_of(model) == "quantized"
    assert 0 < output_step(model, model.logits, 1.0) < 1
    assert precision_of(read_model(quantized.read_bytes())) == "quantized"


def _bounded(model: Model, bound: float) -> Patch:
    sites = [site for site in find_sites(model) if site.kind == "activation"]
    corrections = tuple(UpperBound(site.tensor, np.full((1, site.channels, 1, 1), bound, np.float32)) for site in sites)
    return Patch("unit", model.sha256, corrections)


def test_flipped_steps_pass_and_wrong_models_do_not(quantized: Path, samples: Path) -> None:
    model = read_model(quantized)
    preprocess = resolve_preprocess(model)
    feed = [preprocess.to_input(read_clean_set(samples / "clean", model, preprocess).images(slice(0, 32)))]
    patch = _bounded(model, 0.5)
    hardened, neutral = apply_patch(model, patch), apply_patch(model, neutral_patch(model, patch))
    expected = run_model(hardened, model, feed, optimization="disabled")
    step = output_step(model, model.logits, 1.0)
    flipped = {model.logits: expected[model.logits] + np.float32(step)}
    report = check_parity(model, hardened, neutral, feed, expected=flipped)
    assert all(check.steps is not None and check.agreement is not None for check in report.checks)
    with pytest.raises(ParityError, match="quantisation steps"):
        check_parity(model, hardened, neutral, feed, expected={model.logits: -expected[model.logits]})
    with pytest.raises(ParityError):
        check_parity(model, hardened, hardened, feed)


@pytest.mark.parametrize("method", ["unit", "nft"])
def test_quantise_then_harden(method: str, quantized: Path, samples: Path, tmp_path: Path) -> None:
    found = patcher.harden(
        quantized, clean_dir=samples / "clean", method=method, steps=3, output=tmp_path / "hardened.onnx"
    )
    assert found.output is not None
    assert found.report.verdict == "pass"


def test_harden_then_quantise(samples: Path, tmp_path: Path) -> None:
    """Bounds survive static quantisation: what lies above them before lies above them after."""
    hardened = tmp_path / "hardened.onnx"
    patcher.harden(samples / "digits.onnx", clean_dir=samples / "clean", steps=3, output=hardened, bake="nodes")
    target = quantize(hardened, tmp_path / "quantised.onnx", samples / "clean", "QUInt8")
    plain, small = (patcher.evaluate(path, data=samples / "clean") for path in (hardened, target))
    lost = plain.report.sections["ACC"]["value"] - small.report.sections["ACC"]["value"]
    assert abs(lost) <= 0.05
    assert sum(node.op_type == "Min" for node in read_model(target).proto.graph.node) > 0


def test_inspect_says_what_holds_for_a_quantised_model(quantized: Path) -> None:
    assert "quantisation steps" in patcher.inspect(quantized).about()["limits"]
