# SPDX-License-Identifier: Apache-2.0
"""``patcher verify`` and ``patcher policy``: every exit code by a real situation, every format by its schema."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import numpy as np
import onnx
import pytest
from onnx import helper

from patcher.gate import CHECKS
from tests.cli.conftest import Run
from tests.gate.conftest import Pair, harden
from tests.report.page.reading import report_page
from tests.tiny_models import SHARED, build

FORMATS = {"report.json", "report.md", "report.html", "junit.xml", "results.sarif"}
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.fixture(scope="module")
def pair(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return harden(samples / "digits.onnx", samples / "clean", tmp_path_factory.mktemp("pair"), steps=60)


@pytest.fixture(scope="module")
def lenient(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that time and memory of a busy machine cannot break."""
    policy = tmp_path_factory.mktemp("policy") / "patcher.toml"
    policy.write_text("[thresholds]\nlatency_ratio = 100\nmemory_ratio = 100\n")
    return policy


def arguments(pair: Pair, *more: object) -> list[object]:
    return ["verify", pair.original, pair.hardened, "--clean-dir", pair.clean, *more]


@pytest.fixture(scope="module")
def reports(pair: Pair, lenient: Path, samples: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Report folders of a pass and of a failure."""
    from patcher._cli import main

    folder = tmp_path_factory.mktemp("reports")
    common = [
        "--clean-dir",
        str(pair.clean),
        "--policy",
        str(lenient),
        "--triggered",
        str(samples / "triggered.npz"),
        "-q",
    ]
    for name, hardened in (("pass", pair.hardened), ("fail", pair.original)):
        code = main(["verify", str(pair.original), str(hardened), *common, "--report-dir", str(folder / name)])
        assert code == {"pass": 0, "fail": 1}[name]
        assert {path.name for path in (folder / name).iterdir()} == FORMATS
    return {name: folder / name for name in ("pass", "fail")}


def test_0_a_hardened_model_passes(pair: Pair, lenient: Path, run: Run) -> None:
    outcome = run(*arguments(pair, "--policy", lenient, "--patch", pair.patch))
    assert outcome.code == 0, outcome.out
    assert "sha256 to sign" in outcome.out


def test_1_an_unhardened_model_fails(pair: Pair, lenient: Path, run: Run) -> None:
    outcome = run("verify", pair.original, pair.original, "--clean-dir", pair.clean, "--policy", lenient, "--json")
    assert outcome.code == 1
    found = json.loads(outcome.out)
    assert found["verdict"] == "fail"
    assert any(reason.startswith("probes:") for reason in found["reasons"])


@pytest.mark.parametrize("missing", ["original", "hardened", "clean", "patch", "triggers", "policy"])
def test_2_a_missing_file_could_not_be_decided(pair: Pair, run: Run, tmp_path: Path, missing: str) -> None:
    paths = {name: getattr(pair, name, None) for name in ("original", "hardened", "clean", "patch")} | {
        missing: tmp_path / "no"
    }
    flags = ["--clean-dir", paths["clean"], "--patch", paths["patch"]]
    flags += [f"--{missing}", tmp_path / "no"] if missing in ("triggers", "policy") else []
    outcome = run("verify", paths["original"], paths["hardened"], *flags)
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert "unexpected" not in outcome.err


def test_3_nothing_applicable_comes_from_the_step_before(pair: Pair, run: Run, tmp_path: Path) -> None:
    nodes = [helper.make_node("Flatten", ["image"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["logits"])]
    weights = {"w": np.eye(64, 10, dtype=np.float32)}
    onnx.save(build(nodes, weights, image=("N", 1, 8, 8), outputs=(("logits", ("N", 10)),)), tmp_path / "linear.onnx")
    outcome = run("harden", tmp_path / "linear.onnx", "--clean-dir", pair.clean, "-o", tmp_path / "out.onnx")
    assert outcome.code == 3
    assert run("verify", tmp_path / "linear.onnx", tmp_path / "out.onnx", "--clean-dir", pair.clean).code == 2


def test_json_follows_the_shipped_schema(reports: dict[str, Path]) -> None:
    schema = json.loads((files("patcher") / "report" / "schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    for folder in reports.values():
        document = json.loads((folder / "report.json").read_text())
        jsonschema.validate(document, schema)
        document["checks"][0]["status"] = "perhaps"
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(document, schema)


def test_sarif_follows_the_published_schema(reports: dict[str, Path]) -> None:
    path = SHARED / "schemas" / "sarif-schema-2.1.0.json"
    if not path.exists():
        pytest.skip("no ../shared/schemas beside the checkout")
    schema = json.loads(path.read_text())
    for folder in reports.values():
        jsonschema.Draft7Validator(schema).validate(json.loads((folder / "results.sarif").read_text()))


def test_sarif_has_what_code_scanning_wants(reports: dict[str, Path]) -> None:
    run = json.loads((reports["fail"] / "results.sarif").read_text())["runs"][0]
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == list(CHECKS)
    for rule in rules:
        assert {"id", "shortDescription", "fullDescription", "help"} <= set(rule)
        assert isinstance(rule["properties"]["security-severity"], str)
    assert {result["ruleId"] for result in run["results"]} == {
        "provenance",
        "probes",
        "reconstruction",
        "triggered_images",
    }
    for result in run["results"]:
        location = result["locations"][0]["physicalLocation"]
        assert not location["artifactLocation"]["uri"].startswith("/")
        assert location["region"]["startLine"] == 1
        assert result["partialFingerprints"]
    passed = json.loads((reports["pass"] / "results.sarif").read_text())["runs"][0]
    assert passed["results"] == []


def test_junit_has_one_case_a_check(reports: dict[str, Path]) -> None:
    root = ElementTree.parse(reports["fail"] / "junit.xml").getroot()
    cases = {case.get("name"): case for case in root.iter("testcase")}
    assert list(cases) == list(CHECKS)
    assert cases["probes"].find("failure") is not None
    assert cases["patch"].find("skipped") is not None
    assert (root.get("failures"), root.get("errors")) == ("4", "0")


def test_markdown_has_a_row_a_check(reports: dict[str, Path]) -> None:
    text = (reports["fail"] / "report.md").read_text()
    assert text.startswith("# patcher verify: FAIL")
    for name in CHECKS:
        assert f"\n| {name} | " in text


def test_the_page_needs_nothing_else(reports: dict[str, Path]) -> None:
    report_page(reports["fail"] / "report.html")
    text = (reports["fail"] / "report.html").read_text()
    assert text.count('src="data:image/png;base64,') == 8
    assert "http://" not in text
    assert "https://" not in text
    assert "<script" not in text
    assert "default-src 'none'" in text


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_the_page_opens_in_a_browser(
    reports: dict[str, Path], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The screenshot stays among the test's artefacts: `--basetemp`."""
    from PIL import Image

    shot = tmp_path_factory.getbasetemp() / "gate-report.png"
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
    ]
    flags += [
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=1200,1800",
    ]
    page = (reports["fail"] / "report.html").as_uri()
    subprocess.run([str(CHROMIUM), *flags, f"--screenshot={shot}", page], check=True, capture_output=True, timeout=120)
    pixels = np.asarray(Image.open(shot).convert("RGB")).reshape(-1, 3)
    # The red of the verdict, and the pictures' many colours.
    assert (np.abs(pixels.astype(int) - (180, 35, 24)).max(axis=1) < 4).sum() > 500
    assert len(np.unique(pixels[::7], axis=0)) > 50


def test_the_job_summary_is_appended(
    pair: Pair, lenient: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    assert run(*arguments(pair, "--policy", lenient, "-q")).code == 0
    assert summary.read_text().startswith("before\n# patcher verify: PASS")


def test_policy_init_writes_the_defaults(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("policy", "init").code == 0
    assert run("policy", "check", "patcher.toml").code == 0
    again = run("policy", "init")
    assert again.code == 2
    assert "not overwritten" in again.err


def test_the_gate_runs_without_torch(pair: Pair, lenient: Path) -> None:
    given = [str(item) for item in arguments(pair, "--policy", lenient, "--patch", pair.patch, "-q")]
    code = (
        f"import sys; from patcher._cli import main; code = main({given!r}); "
        "sys.exit(9 if 'torch' in sys.modules else code)"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=300, env=environment)
