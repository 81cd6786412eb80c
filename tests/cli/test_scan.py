# SPDX-License-Identifier: Apache-2.0
"""``patcher scan`` as a user types it, on models whose backdoor is written down."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from patcher.triggers.file import read_triggers
from tests.calibrate.scan.block_models import block_images, block_model
from tests.cli.conftest import Run
from tests.report.page.reading import report_page

QUICK = ("--family", "patch", "--steps", "40", "--seeds", "1")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and clean images."""
    folder = tmp_path_factory.mktemp("scan")
    onnx.save(block_model(target=7), folder / "backdoored.onnx")
    onnx.save(block_model(), folder / "clean.onnx")
    onnx.save(block_model(2), folder / "binary.onnx")
    for classes, name in ((10, "images"), (2, "binary")):
        images, labels = block_images(20, classes)
        # Pictures are (N, H, W, C), as they come from files.
        np.savez(
            folder / f"{name}.npz", images=np.rint(images * 255).astype(np.uint8).transpose(0, 2, 3, 1), labels=labels
        )
    return folder


@pytest.fixture(scope="module")
def scanned(workplace: Path) -> Path:
    """The report folder of the backdoored model."""
    from patcher._cli import main

    arguments = ["scan", str(workplace / "backdoored.onnx"), "--clean-dir", str(workplace / "images.npz"), *QUICK]
    assert main([*arguments, "--report-dir", str(workplace / "found")]) == 1
    return workplace / "found"


def test_a_backdoor_exits_1_and_leaves_its_trigger(scanned: Path) -> None:
    assert {path.name for path in scanned.iterdir()} == {
        "scan.json",
        "scan.html",
        "scan.md",
        "sizes.png",
        "trigger-7.png",
        "triggers.npz",
    }
    report = json.loads((scanned / "scan.json").read_text())
    assert (report["verdict"], report["mode"]) == ("backdoor", "all-to-one")
    assert [item["target"] for item in report["targets"] if item["verdict"] == "backdoor"] == [7]
    [trigger] = read_triggers(scanned / "triggers.npz")
    assert trigger.target == 7
    text = (scanned / "scan.md").read_text()
    assert text.startswith("# patcher scan: BACKDOOR (all-to-one)")
    assert "![trigger-7.png](trigger-7.png)" in text


def test_the_page_shows_triggers_and_every_class(scanned: Path) -> None:
    read = report_page(scanned / "scan.html")
    assert {"trigger-7.png", "sizes.png"} <= read.attributes["alt"]
    assert "patcher audit-data MODEL --train-dir TRAIN" in read.text
    document = json.loads((scanned / "scan.json").read_text())
    assert [row["class"] for row in document["per_class"]] == list(range(10))


def test_the_trigger_can_be_evaluated(run: Run, workplace: Path, scanned: Path) -> None:
    outcome = run(
        "evaluate",
        workplace / "backdoored.onnx",
        "--data",
        workplace / "images.npz",
        "--triggered",
        scanned / "triggers.npz",
        "--json",
    )
    assert outcome.code == 0, outcome.err
    report = json.loads(outcome.out)
    assert report["ASR"]["count"] == 180
    assert report["ASR"]["value"] >= 0.95


def test_a_clean_model_exits_0_and_leaves_no_trigger(run: Run, workplace: Path, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "triggers.npz").write_bytes(b"of an earlier scan")
    outcome = run(
        "scan", workplace / "clean.onnx", "--clean-dir", workplace / "images.npz", "--report-dir", folder, *QUICK
    )
    assert outcome.code == 0, outcome.err
    assert "verdict: clean" in outcome.out
    assert not (folder / "triggers.npz").exists()


def test_two_classes_exit_2(run: Run, workplace: Path, tmp_path: Path) -> None:
    outcome = run(
        "scan",
        workplace / "binary.onnx",
        "--clean-dir",
        workplace / "binary.npz",
        "--report-dir",
        tmp_path / "r",
        *QUICK,
    )
    assert outcome.code == 2
    assert "verdict: inconclusive" in outcome.out


def test_without_data_nothing_is_cleared(run: Run, workplace: Path, tmp_path: Path) -> None:
    outcome = run("scan", workplace / "clean.onnx", "--no-data", "--report-dir", tmp_path / "r", "--json")
    assert outcome.code == 2
    report = json.loads(outcome.out)
    assert report["verdict"] in ("inconclusive", "suspicious")
    assert len(report["maximum_margins"]) == 10
    assert "no data" in (tmp_path / "r" / "scan.md").read_text()
    assert "maximum margin" in report_page(tmp_path / "r" / "scan.html").text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "one of --clean-dir and --no-data"),
        (("--no-data", "--clean-dir", "x"), "one of --clean-dir and --no-data"),
        (("--clean-dir", "missing"), "--clean-dir"),
    ],
)
def test_what_cannot_be_scanned_exits_2(run: Run, workplace: Path, flags: tuple[str, ...], message: str) -> None:
    outcome = run("scan", workplace / "clean.onnx", *flags)
    assert outcome.code == 2
    assert message in outcome.err


def test_too_little_memory_is_said_before_the_search(run: Run, workplace: Path, tmp_path: Path) -> None:
    outcome = run(
        "scan",
        workplace / "clean.onnx",
        "--clean-dir",
        workplace / "images.npz",
        "--memory",
        "0",
        "--report-dir",
        tmp_path / "r",
    )
    assert outcome.code == 2
    assert "--memory" in outcome.err


def harden_by_scan(run: Run, workplace: Path, model: str, scan: Path, output: Path):
    flags = (
        "--method",
        "bna",
        "--scan",
        scan,
        "--steps",
        "0",
        "--report-dir",
        output.with_name("report"),
        "-o",
        output,
    )
    return run("harden", workplace / model, "--clean-dir", workplace / "images.npz", *flags)


def test_bna_takes_the_triggers_of_an_earlier_scan(run: Run, workplace: Path, scanned: Path, tmp_path: Path) -> None:
    outcome = harden_by_scan(run, workplace, "backdoored.onnx", scanned / "scan.json", tmp_path / "hardened.onnx")
    assert outcome.code == 0, outcome.err
    assert onnx.load(tmp_path / "hardened.onnx").graph.output[-1].name == "trigger_detected"


def test_a_scan_that_found_nothing_leaves_the_model_as_it_is(run: Run, workplace: Path, tmp_path: Path) -> None:
    flags = ("--clean-dir", workplace / "images.npz", "--report-dir", tmp_path / "found", *QUICK)
    assert run("scan", workplace / "clean.onnx", *flags).code == 0
    outcome = harden_by_scan(run, workplace, "clean.onnx", tmp_path / "found" / "scan.json", tmp_path / "out.onnx")
    assert outcome.code == 0, outcome.err
    assert "scan: clean" in outcome.out
    assert (tmp_path / "out.onnx").read_bytes() == (workplace / "clean.onnx").read_bytes()


@pytest.mark.parametrize(
    ("content", "expected"),
    [(None, "a scan of this model"), ("{}", "a scan.json written by"), ("[", "a scan.json written by")],
)
def test_the_scan_of_another_model_is_refused(
    run: Run, workplace: Path, scanned: Path, tmp_path: Path, content: str | None, expected: str
) -> None:
    path = scanned / "scan.json"
    if content is not None:
        path = tmp_path / "scan.json"
        path.write_text(content)
    outcome = harden_by_scan(run, workplace, "clean.onnx", path, tmp_path / "out.onnx")
    assert outcome.code == 2
    assert "--scan" in outcome.err
    assert expected in outcome.err
    assert not (tmp_path / "out.onnx").exists()
