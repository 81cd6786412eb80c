# SPDX-License-Identifier: Apache-2.0
"""What is left of a model when its tasks are done: a folder, and one entry of ``fleet.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from patcher.commands.compare import choose_best
from patcher.fleet.content import replace_folder
from patcher.fleet.state import ModelState
from patcher.fleet.task import below, moved

LOG = "log.txt"
_CODES = {"clean": 0, "pass": 0, "backdoor": 1, "fail": 1, "suspicious": 2, "inconclusive": 2, "error": 2}
NOT_APPLICABLE = "not applicable"
# From the least serious: an undecided model may be a good one, a model with a backdoor is none.
_ORDER = (0, 3, 2, 1)


@dataclass(frozen=True)
class ModelResult:
    """What a fleet found of one model.

    Attributes:
        name: Of the model.
        folder: Its results.
        entry: What ``fleet.json`` says of it, as plain JSON values.
        seconds: Of each task that was done in this run, by its name; empty where all came from the cache.
    """

    name: str
    folder: Path
    entry: Mapping[str, Any]
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """The most serious of the verdicts of its steps; ``error`` where one could not be done."""
        return str(self.entry["verdict"])

    @property
    def code(self) -> int:
        """The exit code of that verdict."""
        return int(self.entry["exit_code"])

    @property
    def error(self) -> str | None:
        """Why it could not be done, in one line; the log lies in its folder."""
        return self.entry.get("error")

    def report(self, step: str) -> dict[str, Any]:
        """The report of a step, ``scan``, ``harden`` or ``verify``, as its file holds it.

        Raises:
            KeyError: The step was not done.
        """
        found: dict[str, Any] = json.loads((self.folder / self.entry["steps"][step]["report"]).read_text("utf-8"))
        return found


def worst(codes: list[int]) -> int:
    """The most serious of some exit codes; 0 of none."""
    return max(codes, key=_ORDER.index, default=0)


def finish(state: ModelState, results: Path) -> ModelResult:
    """Write the folder of a model whose tasks are done.

    Raises:
        InputError: The file system refuses.
    """
    plan, failure = state.plan, state.failure
    steps: dict[str, Any] = {}
    files: dict[str, bytes] = {}
    if plan.judge is not None and (found := state.files(plan.judge)):
        files |= moved(found, "scan")
        steps["scan"] = _scan(found)
    if (reports := state.reports()) or state.inapplicable:
        steps["harden"] = _harden(state, reports, files)
    if plan.verify is not None and failure is None and (found := state.files(plan.verify)):
        files |= moved(found, "verify")
        steps["verify"] = _verify(found)
    verdicts = [step["verdict"] for step in steps.values()] + (["error"] if failure is not None else [])
    entry: dict[str, Any] = {
        "name": plan.entry.name,
        "model": {"file": plan.entry.path.name, "sha256": plan.content.bytes_sha256},
        "folder": plan.entry.name,
        **_worst_verdict(verdicts, failure.code if failure is not None else 2),
        "steps": steps,
    }
    if failure is not None:
        entry["error"] = failure.message
        entry["log"] = LOG
        files[LOG] = f"{failure.message}\n\n{failure.log}".encode()
    folder = results / plan.entry.name
    replace_folder(files, folder)
    return ModelResult(plan.entry.name, folder, entry, dict(state.seconds))


def _worst_verdict(verdicts: list[str], error_code: int) -> dict[str, Any]:
    codes = _CODES | {"error": error_code, NOT_APPLICABLE: 3}
    # Of equal codes the first named in the table of codes, which is in the order of steps.
    verdict = max(verdicts, key=lambda name: (_ORDER.index(codes[name]), name == "error"), default="error")
    return {"verdict": verdict, "exit_code": codes[verdict]}


def _scan(files: Mapping[str, bytes]) -> dict[str, Any]:
    report = json.loads(files["scan.json"])
    flagged = [item for item in report["targets"] if item["verdict"] in ("backdoor", "suspicious")]
    return {
        "verdict": report["verdict"],
        "reasons": report["reasons"],
        "report": "scan/scan.json",
        "page": "scan/scan.html",
        "ACC": report["ACC"],
        "mode": report["mode"],
        "targets": [{"target": item["target"], "name": item["name"], "verdict": item["verdict"]} for item in flagged],
        "pictures": [f"scan/{name}" for name in sorted(files) if name.startswith("trigger-")],
    }


def _harden(state: ModelState, reports: Mapping[str, Any], files: dict[str, bytes]) -> dict[str, Any]:
    """The step, and its files: reports of every method, the model of the best."""
    several = len(state.plan.methods) > 1
    best, reason = choose_best(reports) if reports else (None, "")
    for method in reports:
        made = state.method_files(method)
        files |= moved(below(made, "report"), f"harden/{method}" if several else "harden")
        if method == best:
            files |= {name: content for name, content in made.items() if not name.startswith("report/")}
    if not reports:
        return {"verdict": NOT_APPLICABLE, "reasons": list(state.inapplicable.values())}
    shown = best or next(iter(reports))
    report = reports[shown]
    place = f"harden/{shown}" if several else "harden"
    return {
        "verdict": report["verdict"],
        "reasons": report["reasons"],
        "report": f"{place}/report.json",
        "page": f"{place}/report.html",
        "method": shown,
        **(
            {"choice": reason, "verdicts": {name: item["verdict"] for name, item in reports.items()}} if several else {}
        ),
        **({"not_applicable": dict(sorted(state.inapplicable.items()))} if state.inapplicable else {}),
        "before": report["before"],
        "after": report["after"],
        "model": next((name for name in sorted(files) if name.endswith(".hardened.onnx")), None),
    }


def _verify(files: Mapping[str, bytes]) -> dict[str, Any]:
    report = json.loads(files["report.json"])
    return {
        "verdict": report["verdict"],
        "reasons": report["reasons"],
        "report": "verify/report.json",
        "page": "verify/report.html",
        "failed": [check["name"] for check in report["checks"] if check["status"] in ("fail", "not_run")],
    }
