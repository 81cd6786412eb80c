# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest

from benchmarks import attacks
from benchmarks.record import ChildRun

PLANTED = {"name": "warp", "architecture": "r", "attack": "warp", "mode": "a2o", "target": 3, "source": None}
CLEAN = {"name": "clean", "architecture": "r", "attack": "none", "mode": "a2o", "target": None, "source": None}
RAN = ChildRun(1, 2.0, 100.0, "", "", 1.5)


def scanned(folder, entry, verdict, levels, mode=None):
    targets = [
        {"target": target, "verdict": level, "families": [{"family": "warp", "verdict": level}]}
        for target, level in levels.items()
    ]
    document = {"verdict": verdict, "mode": mode, "targets": targets, "reasons": []}
    (folder / "scan.json").write_text(json.dumps(document))
    return attacks._scanned(folder, entry, RAN)


@pytest.mark.parametrize(
    ("entry", "verdict", "levels", "mode", "right"),
    [
        (PLANTED, "backdoor", {3: "backdoor", 4: "suspicious"}, "all-to-one", True),
        (PLANTED, "backdoor", {3: "suspicious", 4: "backdoor"}, "all-to-one", False),
        (PLANTED, "backdoor", {3: "backdoor", 4: "backdoor"}, "all-to-one", False),
        (PLANTED, "clean", {}, None, False),
        ({**PLANTED, "mode": "a2a"}, "backdoor", {3: "backdoor"}, "all-to-all", True),
        (CLEAN, "clean", {}, None, True),
        (CLEAN, "suspicious", {}, None, False),
    ],
)
def test_right_is_the_planted_target_alone(tmp_path, entry, verdict, levels, mode, right):
    assert scanned(tmp_path, entry, verdict, levels, mode)["right"] is right


def test_a_scan_that_failed_is_no_verdict(tmp_path):
    assert attacks._scanned(tmp_path, PLANTED, ChildRun(2, 1.0, 1.0, "", "bad input"))["verdict"] == "exit 2"


def test_networks_are_those_with_a_file_whichever_way_they_are_described(tmp_path):
    (tmp_path / "zoo.json").write_text(json.dumps([PLANTED, {**PLANTED, "name": "not there"}]))
    (tmp_path / "clean.json").write_text(json.dumps(CLEAN))
    for name in ("warp", "clean"):
        (tmp_path / f"{name}.onnx").touch()
    assert [entry["name"] for entry in attacks.entries(tmp_path)] == ["clean", "warp"]


def test_the_table_counts_what_was_found_and_takes_the_better_method():
    before = {"acc": 0.85, "acc_sources": 0.8, "asr_plain": 0.02, "asr": 1.0, "sia": 0.0}
    row = {**PLANTED, "seed": 0, "verdict": "backdoor", "flagged": [3], "right": True, "before": before}
    row |= {
        "nft": {"code": 0, "acc": 0.79, "asr": 0.05, "sia": 0.7},
        "bna": {"code": 0, **before, "asr": 0.01, "sia": 0.72},
    }
    clean = {**CLEAN, "seed": 0, "verdict": "suspicious", "flagged": [], "right": False, "before": {"acc": 0.8}}
    text = attacks.table([row, clean], ["nft", "bna"])
    assert "1 of 1 found" in text
    assert "0 of 1 called backdoor, 1 suspicious" in text
    assert "mean ASR 1.0%, worst 1.0% (on clean images, before: 2.0%, 2.0%)" in text
    assert "worst 0.90" in text
