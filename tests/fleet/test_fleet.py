# SPDX-License-Identifier: Apache-2.0
"""Same bytes as the commands for any order and number of workers; faults; the cache."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import onnx
import pytest

import patcher
from patcher.errors import InputError
from patcher.fleet.task import Failure
from tests.calibrate.scan.block_models import block_model
from tests.fleet.conftest import SCAN
from tests.fleet.fakes import HereEngine
from tests.report.page.reading import report_page


def files_of(folder: Path) -> dict[str, bytes]:
    """All results but what tells of time."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not name.startswith(".cache"):
            found[name] = path.read_bytes()
    return {name: without_time(name, content) for name, content in found.items()}


def without_time(name: str, content: bytes) -> bytes:
    if name.endswith(".json"):
        document = json.loads(content)
        document.pop("timings", None)
        for record in document.get("searched", ()):
            record.pop("seconds")
        return json.dumps(document).encode()
    # Seconds and latency stand in them.
    return b"" if name.endswith((".md", "scan.html", "report.html")) else content


def run(table: dict[str, Any], engine: Any = None, **options: Any) -> dict[str, Any]:
    return {item.name: item for item in patcher.fleet(table, engine=engine or HereEngine(), **options)}


def test_a_scan_in_tasks_is_the_scan(table: dict[str, Any], models: Path, tmp_path: Path) -> None:
    found = run(table, HereEngine(3, seed=1))
    assert {name: item.verdict for name, item in found.items()} == {"backdoored": "backdoor", "clean": "clean"}
    options = {**SCAN, "family": tuple(SCAN["family"])}
    for name in found:
        alone = tmp_path / f"alone-{name}"
        patcher.scan(models / f"{name}.onnx", clean_dir=models / "images.npz", report_dir=alone, **options)
        assert files_of(alone) == files_of(found[name].folder / "scan")


def test_single_sources_become_tasks_of_their_own(table: dict[str, Any], models: Path, tmp_path: Path) -> None:
    table["models"] = table["models"][:1]
    table["defaults"]["scan"] |= {"sources": 1, "steps": 10}
    engine = HereEngine(4, seed=2)
    (found,) = run(table, engine).values()
    assert sum(task.kind == "source" for task in engine.done) >= len(SCAN["family"])
    options = {**SCAN, "family": tuple(SCAN["family"]), "sources": 1, "steps": 10}
    patcher.scan(models / "backdoored.onnx", clean_dir=models / "images.npz", report_dir=tmp_path / "alone", **options)
    assert files_of(tmp_path / "alone") == files_of(found.folder / "scan")


def test_any_number_of_workers_gives_the_same_index(table: dict[str, Any], tmp_path: Path) -> None:
    written = []
    for slots in (1, 4):
        run(table, HereEngine(slots, seed=slots), results=tmp_path / str(slots))
        written.append(files_of(tmp_path / str(slots)))
    assert written[0] == written[1]


def test_the_second_run_does_nothing_and_a_changed_model_is_done_again(
    table: dict[str, Any], models: Path, tmp_path: Path
) -> None:
    copied = tmp_path / "model.onnx"
    copied.write_bytes((models / "clean.onnx").read_bytes())
    table["models"] = [{"path": str(copied)}]
    run(table)
    first, again = files_of(Path(table["results"])), HereEngine()
    run(table, again)
    assert again.done == []
    assert files_of(Path(table["results"])) == first
    copied.write_bytes((models / "backdoored.onnx").read_bytes())
    assert run(table, HereEngine())["model"].verdict == "backdoor"
    forced = HereEngine()
    run(table, forced, force=True)
    assert [task.kind for task in forced.done] == ["ranking", "family", "family", "judge"]


def test_a_run_that_was_ended_goes_on(table: dict[str, Any]) -> None:
    begun = HereEngine(accident=lambda task: Failure("ended") if task.kind == "judge" else None)
    run(table, begun)
    rest = HereEngine()
    found = run(table, rest)
    assert {task.kind for task in rest.done} == {"judge"}
    assert found["backdoored"].verdict == "backdoor"


def test_a_damaged_entry_of_the_cache_is_done_again(table: dict[str, Any]) -> None:
    run(table)
    for path in (Path(table["results"]) / ".cache").rglob("scan.json"):
        path.write_bytes(path.read_bytes()[:-2])
    again = HereEngine()
    run(table, again)
    assert [task.kind for task in again.done] == ["judge", "judge"]


def test_a_lost_process_is_tried_again_twice(table: dict[str, Any]) -> None:
    lost = {"count": 0}

    def accident(task):
        if task.detail == ("patch",) and task.model == "clean" and lost["count"] < 2:
            lost["count"] += 1
            return Failure("killed", lost=True)
        return None

    found = run(table, HereEngine(2, accident=accident))
    assert found["clean"].verdict == "clean"
    assert lost["count"] == 2


def test_a_poisonous_model_is_an_error_of_its_own(table: dict[str, Any]) -> None:
    def accident(task):
        return Failure("killed", log="what it wrote", lost=True) if task.model == "backdoored" else None

    engine = HereEngine(2, accident=accident)
    found = run(table, engine)
    assert (found["backdoored"].verdict, found["backdoored"].code) == ("error", 2)
    assert "what it wrote" in (found["backdoored"].folder / "log.txt").read_text()
    assert sum(task.model == "backdoored" for task in engine.done) == 3
    assert found["clean"].verdict == "clean"
    document = json.loads((Path(table["results"]) / "fleet.json").read_text())
    assert (document["verdict"], document["counts"]) == ("inconclusive", {"clean": 1, "error": 1})


def test_a_file_that_is_no_model_is_an_error_of_its_own(table: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    table["models"].append({"path": str(tmp_path / "broken.onnx")})
    found = run(table)
    assert "not an ONNX model" in (found["broken"].error or "")
    assert found["backdoored"].verdict == "backdoor"


def test_the_index_names_every_model(table: dict[str, Any]) -> None:
    run(table)
    folder = Path(table["results"])
    document = json.loads((folder / "fleet.json").read_text())
    assert [model["name"] for model in document["models"]] == ["backdoored", "clean"]
    assert document["verdict"] == "fail"
    for model in document["models"]:
        assert (
            model["model"]["sha256"]
            == json.loads((folder / model["name"] / "scan" / "scan.json").read_text())["model"]["sha256"]
        )
    (suite,) = ElementTree.parse(folder / "junit.xml").getroot()
    assert [(case.get("name"), [child.tag for child in case]) for case in suite] == [
        ("backdoored", ["failure"]),
        ("clean", ["system-out"]),
    ]
    page = (folder / "fleet.html").read_text()
    assert page.count("<tr>") == 3
    assert 'href="backdoored/scan/scan.html"' in page
    assert "data:image/png" in page
    report_page(folder / "fleet.html")


def test_harden_takes_the_scan_and_the_gate_the_best_method(samples: Path, tmp_path: Path) -> None:
    table = {
        "results": str(tmp_path / "results"),
        "defaults": {"clean_dir": str(samples / "clean"), "do": ["scan", "harden", "verify"], "scan": dict(SCAN)},
        "models": [{"path": str(samples / "digits.onnx"), "harden": {"methods": ["nft", "unit"], "steps": 2}}],
    }
    engine = HereEngine(2, seed=3)
    (found,) = run(table, engine).values()
    kinds = [task.kind for task in engine.done]
    assert kinds.index("judge") < max(place for place, kind in enumerate(kinds) if kind == "harden") < len(kinds) - 1
    assert kinds[-1] == "verify"
    steps = found.entry["steps"]
    assert steps["harden"]["method"] == "nft"
    assert steps["harden"]["verdicts"] == {"nft": "pass", "unit": "pass"}
    assert (found.folder / "digits.hardened.onnx").is_file()
    assert found.report("verify")["hardened"]["name"] == "digits.hardened.onnx"
    alone = tmp_path / "alone"
    patcher.harden(
        samples / "digits.onnx",
        clean_dir=samples / "clean",
        method="unit",
        steps=2,
        output=tmp_path / "digits.hardened.onnx",
        report_dir=alone,
    )
    assert without_time("report.json", (alone / "report.json").read_bytes()) == without_time(
        "report.json", (found.folder / "harden" / "unit" / "report.json").read_bytes()
    )


def test_a_method_without_a_site_leaves_the_others(table: dict[str, Any], tmp_path: Path) -> None:
    model = block_model()
    nodes = list(model.graph.node[:2])  # the linear classifier in front of the detector: no activation to bound
    nodes[1].output[0] = "logits"
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, tmp_path / "linear.onnx")
    table["defaults"] |= {"do": ["harden", "verify"], "harden": {"method": "unit"}}
    table["models"] = [{"path": str(tmp_path / "linear.onnx")}]
    (found,) = run(table).values()
    assert (found.verdict, found.code) == ("not applicable", 3)
    assert "verify" not in found.entry["steps"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update(modles=[]), "unknown key 'modles'"),
        (lambda t: t["defaults"].update(clean="x"), "unknown key 'clean'"),
        (lambda t: t["defaults"]["scan"].update(stpes=1), "unknown key 'stpes'"),
        (lambda t: t["defaults"]["scan"].update(steps=0), "--steps"),
        (lambda t: t["defaults"]["scan"].update(steps="many"), "another type"),
        (lambda t: t["defaults"]["scan"].update(family=["patches"]), "'patches'"),
        (lambda t: t["defaults"].update(clean_dir="missing"), "clean_dir: file or folder not found"),
        (lambda t: t["defaults"].pop("clean_dir"), "clean_dir expected"),
        (lambda t: t["models"][0].update(path="missing.onnx"), "path: file or folder not found"),
        (lambda t: t["models"][0].update(name="../up"), "name: letters"),
        (lambda t: t["models"].append(copy.deepcopy(t["models"][0])), "two models are named 'backdoored'"),
        (lambda t: t["models"].append({"glob": "nothing*.onnx"}), "no file matches"),
        (lambda t: t["models"].clear(), "[[models]]"),
        (lambda t: t["defaults"].update(do=["verify"]), "verify needs harden"),
        (lambda t: t["defaults"].update(do=["scna"]), "do: some of"),
        (lambda t: t["defaults"].update(harden={"method": "unite"}), "'unite'"),
        (lambda t: t["defaults"].update(harden={"checkpoint": "x", "method": "none"}), "unknown key 'checkpoint'"),
        (lambda t: t.update(run={"workers": 0}), "workers"),
        (lambda t: t.update(run={"timeout": -1}), "timeout"),
        (lambda t: t["defaults"].update(preprocess={"maen": [0.5]}), "unknown key 'maen'"),
    ],
)
def test_what_a_description_may_not_say(table: dict[str, Any], change: Any, message: str) -> None:
    change(table)
    with pytest.raises(InputError, match=None) as raised:
        patcher.fleet(table, engine=HereEngine())
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not Path(table["results"]).exists()
