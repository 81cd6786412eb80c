# SPDX-License-Identifier: Apache-2.0
"""The statement about a verdict, and what makes the gate refuse one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from patcher.errors import InputError
from patcher.report.verify.attestation import PREDICATE_TYPE, attestation_fault, write_attestation

pytest.importorskip("in_toto_attestation")
DOCUMENT = {
    "verdict": "pass",
    "hardened": {"name": "model.onnx", "sha256": "a" * 64},
    "original": {"sha256": "b" * 64},
    "clean_set": {"sha256": "c" * 64},
    "policy": {"require": []},
    "checks": [
        {"name": "graph", "status": "pass", "details": {}},
        {"name": "latency", "status": "suppressed", "details": {}},
        {"name": "patch", "status": "pass", "details": {"patch_sha256": "d" * 64}},
    ],
    "timings": {"seconds": 1.0},
}


def test_it_names_subject_materials_and_checks(tmp_path: Path) -> None:
    write_attestation(DOCUMENT, tmp_path / "statement.json")
    found = json.loads((tmp_path / "statement.json").read_text())
    assert found["_type"] == "https://in-toto.io/Statement/v1"
    assert found["predicateType"] == PREDICATE_TYPE
    assert found["subject"] == [{"name": "model.onnx", "digest": {"sha256": "a" * 64}}]
    predicate = found["predicate"]
    assert [item["name"] for item in predicate["configuration"]] == ["original", "clean set", "policy", "patch"]
    assert (predicate["result"], predicate["warnedTests"]) == ("PASSED", ["latency"])
    assert "timings" not in predicate["report"]
    assert attestation_fault(tmp_path / "statement.json", DOCUMENT) == ""
    again = {**DOCUMENT, "timings": {"seconds": 2.0}}
    write_attestation(again, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "statement.json").read_bytes()


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"hardened": {"name": "model.onnx", "sha256": "e" * 64}}, "another file"),
        ({"original": {"sha256": "e" * 64}}, "another original"),
        ({"clean_set": {"sha256": "e" * 64}}, "another clean set"),
        ({"policy": {"require": ["patch"]}}, "another policy"),
        ({"checks": [{"name": "patch", "status": "skipped", "details": {}}]}, "another patch"),
        ({"verdict": "fail"}, "did not pass"),
    ],
)
def test_a_statement_about_something_else(tmp_path: Path, changed: dict[str, object], reason: str) -> None:
    write_attestation({**DOCUMENT, **changed}, tmp_path / "statement.json")
    assert reason in attestation_fault(tmp_path / "statement.json", DOCUMENT)


@pytest.mark.parametrize("text", ["", "{}", "[]", "[" * 5000, '{"_type": 1, "subject": [], "predicate": {}}', "\x00"])
def test_no_statement(tmp_path: Path, text: str) -> None:
    (tmp_path / "statement.json").write_text(text)
    with pytest.raises(InputError, match="--attested"):
        attestation_fault(tmp_path / "statement.json", DOCUMENT)


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "in_toto_attestation.v1.statement", None)
    with pytest.raises(InputError, match="attest"):
        write_attestation(DOCUMENT, tmp_path / "statement.json")
    assert not (tmp_path / "statement.json").exists()
