# SPDX-License-Identifier: Apache-2.0
"""Other things than single-label pictures: each method on each sample of `samples/train_tasks.py`.

    python -m benchmarks.tasks [--tasks text points pairs video] [--methods auto nft unit] [--folder build/tasks]

What the folder holds already is neither trained nor measured again. `auto` scans; of `pairs`, whose pictures nine
families fit, a scan of one family is a command of its own, to keep this short. `nft` gets the triggers of the scan.
Commands run in this process as they do from a shell, and are printed. Accuracy (and mAP) are of the held-out fifth of
the clean set, which nothing was fitted on; ASR and SIA are of 600 test rows with the attacker's own trigger, which no
method sees; `verify` is the gate's exit code with the same clean set. One thread.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import markdown_table, write_result
from patcher._cli import main as command_line
from samples.train_tasks import RECIPES, make

_RANGES = {"points": ("--range=-1.2:1.2",)}
_FEWER = ("--steps", "150")  # for pictures and clips, whose steps cost most
_STEPS = {"pairs": _FEWER, "video": _FEWER}
_FAMILIES = {"pairs": ("patch",)}
_METHODS = ("auto", "nft", "unit")
_EPSILON = ("--epsilon", "0.03")  # accuracy that may be lost
Row = dict[str, Any]


def patcher(*arguments: str | Path) -> int:
    """Run a command; its exit code."""
    given = [str(argument) for argument in arguments]
    code = command_line(given)
    print(shlex.join(["patcher", *given]), "->", code, flush=True)
    return code


def kept(name: str, method: str, place: Path) -> Row:
    """As `measured`, once."""
    file = place / f"{method}.json"
    if not file.is_file():
        file.write_text(json.dumps(measured(name, method, place), indent=1) + "\n", encoding="utf-8")
    row: Row = json.loads(file.read_text(encoding="utf-8"))
    return row


def measured(name: str, method: str, place: Path) -> Row:
    """One method on one sample."""
    more, clean = _RANGES.get(name, ()), place / "clean.npz"
    output, report = place / f"{method}.onnx", place / f"{method}.report"
    output.unlink(missing_ok=True)
    scan = place / "auto.report" / "scan" / "scan.json"
    if families := [part for family in _FAMILIES.get(name, ()) for part in ("--family", family)]:
        scan = place / "scan" / "scan.json"
        if not scan.is_file():
            patcher(
                "scan", place / "model.onnx", "--clean-dir", clean, "--report-dir", scan.parent, *families, "--quiet"
            )
    needed = method == "nft" or (method == "auto" and families)
    given = ("--scan", scan) if needed and scan.is_file() else ()
    attack = ("--triggered", place / "triggered.npz")
    files = (place / "model.onnx", "--clean-dir", clean, *attack, "-o", output, "--report-dir", report)
    code = patcher("harden", *files, "--method", method, *_EPSILON, *_STEPS.get(name, ()), "--quiet", *given, *more)
    document = json.loads((report / "report.json").read_text(encoding="utf-8"))
    row: Row = {"task": name, "method": method, "harden": code, "made": document["method"]["name"]}
    row |= {side: _figures(document[side]) for side in ("before", "after")}
    row |= {"scan": _verdict(scan) if method == "auto" else None, "verify": None}
    if output.is_file():
        row["verify"] = patcher("verify", place / "model.onnx", output, "--clean-dir", clean, "--quiet", *more)
    return row


def _figures(side: dict[str, Any]) -> Row:
    attack, figures = side["attack"], side.get("figures", {})
    shares = {"ACC": side["held_out"], "ASR": attack["ASR"], "SIA": attack["SIA"]}
    return {**{key: share["value"] for key, share in shares.items()}, "mAP": figures.get("mAP")}


def _verdict(scan: Path) -> str:
    document = json.loads(scan.read_text(encoding="utf-8"))
    found = [str(item["target"]) for item in document["targets"] if item["verdict"] == document["verdict"]]
    return f"{document['verdict']}{', target ' + ' '.join(found) if found and document['triggers'] else ''}"


def _pair(row: Row, key: str) -> str:
    before, after = row["before"][key], row["after"][key]
    return "" if before is None else f"{before:.1%} → {after:.1%}"


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    header = ("task", "`--method`", "what was done", "accuracy", "mAP", "ASR", "SIA", "`verify`")
    cells = [
        (
            row["task"],
            f"`{row['method']}`",
            row["made"] + (f" (scan: {row['scan']})" if row["scan"] else ""),
            *(_pair(row, key) for key in ("ACC", "mAP", "ASR", "SIA")),
            {0: "passes", None: "no file: loses too much"}.get(row["verify"], f"ends with {row['verify']}"),
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
    torch.set_num_threads(1)
    rows = []
    for name in options.tasks:
        place = options.folder / name
        if not (place / "model.onnx").is_file():
            make(name, options.folder)
        rows += [kept(name, method, place) for method in _METHODS if method in options.methods]
        print(table(rows), flush=True)
    command = shlex.join(["python", "-m", "benchmarks.tasks", *sys.argv[1:]])
    write_result("tasks", command=command, rows=rows, tables=table(rows))


if __name__ == "__main__":
    main()
