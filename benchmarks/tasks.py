# SPDX-License-Identifier: Apache-2.0
"""Other things than single-label pictures: each method on each sample of `samples/train_tasks.py`, by command line.

    python -m benchmarks.tasks [--tasks pairs video points text] [--methods auto nft unit] [--folder build/tasks]

Each sample is trained where the folder lacks it. `auto` scans; `nft` gets the triggers of that scan where there are
any. Accuracy, mAP, ASR and SIA are those of `patcher evaluate` on 600 test rows that no command saw before, plain and
with the attacker's own trigger; `verify` is its exit code with the same clean set. One thread.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.record import markdown_table, write_result
from samples.train_tasks import RECIPES, make

_RANGES = {"points": ("--range=-1.2:1.2",)}
_METHODS = ("auto", "nft", "unit")
Row = dict[str, Any]


def patcher(*arguments: str | Path) -> tuple[int, str]:
    """Run a command with one thread: exit code, and what it printed."""
    command = [sys.executable, "-m", "patcher", *map(str, arguments)]
    found = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    print(shlex.join(command), "->", found.returncode, found.stderr.strip().splitlines()[-1:], flush=True)
    return found.returncode, found.stdout


def evaluated(place: Path, model: Path, more: tuple[str, ...]) -> Row:
    """Figures of a model on the test rows."""
    data = ("--data", place / "test.npz", "--triggered", place / "triggered.npz", "--json")
    code, printed = patcher("evaluate", model, *data, *more)
    if code:
        raise RuntimeError(f"{model}: evaluate ended with {code}")
    document = json.loads(printed)
    shares = {key: document[key]["value"] for key in ("ACC", "ASR", "SIA")}
    return {**shares, "mAP": document.get("mAP")}


def measured(name: str, method: str, place: Path) -> Row:
    """One method on one sample."""
    more, clean = _RANGES.get(name, ()), place / "clean.npz"
    output, report = place / f"{method}.onnx", place / f"{method}.report"
    output.unlink(missing_ok=True)
    scan = place / "auto.report" / "scan" / "scan.json"
    given = ("--scan", scan) if method == "nft" and scan.is_file() else ()
    files = (place / "model.onnx", "--clean-dir", clean, "-o", output, "--report-dir", report)
    code, _ = patcher("harden", *files, "--method", method, "--quiet", *given, *more)
    row: Row = {"task": name, "method": method, "harden": code, "before": evaluated(place, place / "model.onnx", more)}
    document = json.loads((report / "report.json").read_text(encoding="utf-8"))
    row |= {"made": document["method"]["name"], "scan": _verdict(scan) if method == "auto" else None}
    if output.is_file():
        row["after"] = evaluated(place, output, more)
        row["verify"] = patcher("verify", place / "model.onnx", output, "--clean-dir", clean, "--quiet", *more)[0]
    return row


def _verdict(scan: Path) -> str:
    document = json.loads(scan.read_text(encoding="utf-8"))
    found = [str(item["target"]) for item in document["targets"] if item["verdict"] == document["verdict"]]
    return f"{document['verdict']}{', target ' + ' '.join(found) if found and document['triggers'] else ''}"


def _pair(row: Row, key: str) -> str:
    before, after = row["before"][key], row.get("after", {}).get(key)
    if before is None:
        return ""
    return f"{before:.1%} → {'no file' if after is None else f'{after:.1%}'}"


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    header = ("task", "`--method`", "what was done", "accuracy", "mAP", "ASR", "SIA", "`verify`")
    cells = [
        (
            row["task"],
            f"`{row['method']}`",
            row["made"] + (f" (scan: {row['scan']})" if row["scan"] else ""),
            *(_pair(row, key) for key in ("ACC", "mAP", "ASR", "SIA")),
            {0: "passes", None: ""}.get(row.get("verify"), f"ends with {row.get('verify')}"),
        )
        for row in rows
    ]
    return markdown_table(header, cells)


def main() -> None:
    """Train, harden, measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tasks", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--methods", nargs="+", choices=_METHODS, default=list(_METHODS))
    parser.add_argument("--folder", type=Path, default=Path("build/tasks"))
    options = parser.parse_args()
    rows = []
    for name in options.tasks:
        place = options.folder / name
        if not (place / "model.onnx").is_file():
            make(name, options.folder)
        rows += [measured(name, method, place) for method in _METHODS if method in options.methods]
    command = shlex.join(["python", "-m", "benchmarks.tasks", *sys.argv[1:]])
    print(table(rows))
    write_result("tasks", command=command, rows=rows, tables=table(rows))


if __name__ == "__main__":
    main()
