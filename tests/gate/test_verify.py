# SPDX-License-Identifier: Apache-2.0
"""The gate on a real hardened model and on what may happen to one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from patcher.errors import InputError
from patcher.gate import CHECKS
from tests.gate import tampering
from tests.gate.conftest import Pair, Tamper, failures, gate

# Time and memory depend on what else the machine does; they have tests of their own.
UNTIMED = {"latency", "memory"}


def test_the_hardened_sample_passes(digits: Pair, samples: Path, tmp_path: Path) -> None:
    result = gate(digits, digits.hardened, tmp_path, patch=digits.patch, triggered=samples / "triggered.npz")
    found = {check.name: check for check in result.checks}
    assert list(found) == list(CHECKS)
    assert {name for name, check in found.items() if check.failed} <= UNTIMED
    assert found["patch"].status == "pass"
    assert found["graph"].details["added"] == {"Min": 6}
    assert found["triggered_images"].value <= 0.1
    assert found["accuracy"].interval[0] <= found["accuracy"].value <= found["accuracy"].interval[1]
    assert found["clean_images"].details["held_out_only"]
    assert found["memory"].measured["before_bytes"] > 1e6


def test_the_unhardened_sample_fails_on_its_backdoor(digits: Pair, samples: Path, tmp_path: Path) -> None:
    result = gate(digits, digits.original, tmp_path, triggered=samples / "triggered.npz")
    failed = {check.name for check in result.checks if check.failed}
    assert {"probes", "triggered_images", "provenance"} <= failed
    assert not failed & {"graph", "weights", "interface", "accuracy", "agreement"}
    worst = next(check for check in result.checks if check.name == "probes").details["worst"][0]
    assert worst["target"] == 7


@pytest.mark.parametrize(
    ("tamper", "expected"),
    [
        (tampering.bounds_removed, {"probes", "graph", "reconstruction"}),
        (tampering.one_weight_changed, {"weights", "reconstruction"}),
        (tampering.output_inserted_first, {"interface", "graph", "reconstruction"}),
        (tampering.labels_swapped, {"accuracy", "agreement", "weights", "reconstruction"}),
        (tampering.source_forged, {"provenance", "reconstruction"}),
    ],
)
def test_tampering_fails_on_the_right_check(digits: Pair, tmp_path: Path, tamper: Tamper, expected: set[str]) -> None:
    model = onnx.load(digits.hardened)
    tamper(model)
    found = failures(digits, model, tmp_path)
    assert found - UNTIMED == expected
    assert "patch" in failures(digits, model, tmp_path, patch=digits.patch)


def test_quantisation_with_defaults_is_noticed(digits: Pair, tmp_path: Path) -> None:
    feeds = [{"input": np.random.default_rng(0).random((8, 1, 8, 8)).astype(np.float32)}]
    tampering.quantized(digits.hardened, tmp_path / "quantized.onnx", feeds)
    assert {"graph", "weights"} <= failures(digits, tmp_path / "quantized.onnx", tmp_path)


def test_a_correction_that_one_consumer_does_not_see(digits: Pair, tmp_path: Path) -> None:
    model = onnx.load(digits.hardened)
    bound = next(node for node in model.graph.node if node.op_type == "Min")
    reader = next(node for node in model.graph.node if bound.output[0] in node.input)
    reader.input[list(reader.input).index(bound.output[0])] = bound.input[0]
    assert "graph" in failures(digits, model, tmp_path)


def test_a_custom_operator(digits: Pair, tmp_path: Path) -> None:
    model = onnx.load(digits.hardened)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    scores = model.graph.output[0].name
    last = next(node for node in model.graph.node if scores in node.output)
    last.output[list(last.output).index(scores)] = "raw"
    model.graph.node.append(helper.make_node("Gelu", ["raw"], [scores], domain="com.microsoft"))
    assert {"operators", "graph"} <= failures(digits, model, tmp_path)


def test_a_model_that_does_not_run_fails_every_measurement(digits: Pair, tmp_path: Path) -> None:
    model = onnx.load(digits.hardened)
    model.graph.input[0].name = "other"
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == "input":
                node.input[index] = "other"
    result = gate(digits, model, tmp_path)
    found = {check.name: check.status for check in result.checks}
    assert found["interface"] == "fail"
    for name in ("accuracy", "agreement", "probes", "latency", "memory"):
        assert found[name] == "not_run"
    assert not result.passed


def test_the_same_inputs_give_the_same_report_but_for_timings(digits: Pair, tmp_path: Path) -> None:
    documents = [gate(digits, digits.hardened, tmp_path).report.as_json() for _ in range(2)]
    for document in documents:
        assert document.pop("timings")["seconds"] > 0
        # Under load a limit on time may be missed; the rest must not move.
        document["checks"] = [check for check in document["checks"] if check["name"] not in UNTIMED]
        document["reasons"] = [reason for reason in document["reasons"] if reason.split(":")[0] not in UNTIMED]
        document.pop("verdict")
    assert json.dumps(documents[0]) == json.dumps(documents[1])


def test_other_clean_images_count_whole(digits: Pair, samples: Path, tmp_path: Path) -> None:
    other = Pair(digits.original, digits.hardened, digits.patch, samples / "test.npz")
    found = {check.name: check for check in gate(other, digits.hardened, tmp_path).checks}
    assert found["clean_images"].count == 497
    assert not found["clean_images"].details["held_out_only"]


def test_too_few_clean_images(digits: Pair, tmp_path: Path) -> None:
    assert "clean_images" in failures(digits, digits.hardened, tmp_path, limit_per_class=4)


def test_limits_of_the_policy_decide(digits: Pair, tmp_path: Path) -> None:
    policy = tmp_path / "patcher.toml"
    limits = {"latency_ratio": 0, "memory_ratio": 0, "size_ratio": 1, "agreement": 1}
    limits |= {"latency_allowance_ms": 0, "size_allowance_kib": 0}
    policy.write_text("[thresholds]\n" + "".join(f"{name} = {value}\n" for name, value in limits.items()))
    assert failures(digits, digits.hardened, tmp_path, policy=policy) >= {"latency", "memory", "size", "agreement"}


def test_the_inputs_are_left_alone(digits: Pair, tmp_path: Path) -> None:
    shutil.copy(digits.hardened, tmp_path / "copy.onnx")
    before = {path: path.read_bytes() for path in (tmp_path / "copy.onnx", digits.original, digits.patch)}
    gate(digits, tmp_path / "copy.onnx", tmp_path, patch=digits.patch)
    assert before == {path: path.read_bytes() for path in before}
    assert [path.name for path in tmp_path.iterdir()] == ["copy.onnx"]


def test_triggered_images_of_another_size_are_refused(digits: Pair, tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", images=np.zeros((2, 9, 9, 1), np.uint8), labels=np.array([0, 1]), target=7)
    with pytest.raises(InputError, match="--triggered"):
        gate(digits, digits.hardened, tmp_path, triggered=tmp_path / "t.npz")
