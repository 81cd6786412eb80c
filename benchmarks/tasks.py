# SPDX-License-Identifier: Apache-2.0
"""Other things than single-label pictures: each method on each sample of `samples/train_tasks.py`.

    python -m benchmarks.tasks [--tasks text points pairs video] [--methods auto nft unit] [--seed 1]
                               [--folder build/tasks]

Every option is the default one, but for the range of points, and of pairs and video `--steps 150`, since their steps
cost most, and one bound an element, since their size is fixed. What the folder holds already is neither trained nor
measured again. `auto` scans, and `nft` gets the triggers of its scan; of `pairs`, whose pictures nine families fit, a
scan of patches alone is a command of its own, and a second network of the same data without a backdoor is scanned as
well. Commands run in this process as they do from a shell, and are printed. Accuracy and mAP are of 600 test rows that
nothing was fitted or decided on, ASR and SIA of the same rows with the attacker's own trigger; `verify` is the gate's
exit code with the clean set. Processor seconds of `harden`, the scan of `auto` included where it makes one. One
thread. The samples and methods were looked at with seed 0 while they were made.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import markdown_table, write_result
from patcher._cli import main as command_line
from samples.train_tasks import RECIPES, make

_RANGES = {"points": ("--range=-1.2:1.2",)}
_FEWER = ("--steps", "150")
_FIXED = ("pairs", "video")
_PLACES = ("--granularity", "element")
_FAMILIES = {"pairs": ("--family", "patch")}
_METHODS = ("auto", "nft", "unit")
Row = dict[str, Any]


def patcher(*arguments: str | Path) -> int:
    """Run a command; its exit code."""
    given = [str(argument) for argument in arguments]
    code = command_line(given)
    print(shlex.join(["patcher", *given]), "->", code, flush=True)
    return code


def kept(file: Path, measure: Callable[[], Row]) -> Row:
    """What was measured, once."""
    if not file.is_file():
        file.write_text(json.dumps(measure(), indent=1) + "\n", encoding="utf-8")
    row: Row = json.loads(file.read_text(encoding="utf-8"))
    return row


def measured(name: str, method: str, place: Path) -> Row:
    """One method on one sample."""
    more, model, clean = _RANGES.get(name, ()), place / "model.onnx", place / "clean.npz"
    output, report, scan = place / f"{method}.onnx", place / f"{method}.report", place / "auto.report/scan/scan.json"
    output.unlink(missing_ok=True)
    if name in _FAMILIES:
        scan = place / "scan/scan.json"
        kept(place / "scan.json", partial(scanned, name, place))
    given = ("--scan", scan) if (method == "nft" or name in _FAMILIES) and method != "unit" and scan.is_file() else ()
    files = (model, "--clean-dir", clean, "-o", output, "--report-dir", report)
    started = time.process_time()
    code = patcher("harden", *files, "--method", method, "--quiet", *_given(name, method), *given, *more)
    row: Row = {"task": name, "method": method, "harden": code, "cpu_s": time.process_time() - started}
    row["made"] = json.loads((report / "report.json").read_text(encoding="utf-8"))["method"]["name"]
    row |= {"scan": verdict(scan) if method == "auto" else None, "verify": None, "after": None}
    row["before"] = figures(model, place, more)
    if output.is_file():
        row["after"] = figures(output, place, more)
        row["verify"] = patcher("verify", model, output, "--clean-dir", clean, "--quiet", *more)
    return row


def _given(name: str, method: str) -> tuple[str, ...]:
    return (*_FEWER, *(_PLACES if method != "nft" else ())) if name in _FIXED else ()


def figures(model: Path, place: Path, more: Sequence[str]) -> Row:
    """Shares of the test rows."""
    folder = place / f"{model.stem}.evaluation"
    attack = ("--triggered", place / "triggered.npz")
    patcher("evaluate", model, "--data", place / "test.npz", *attack, "--report-dir", folder, *more)
    document = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return {**{key: document[key]["value"] for key in ("ACC", "ASR", "SIA")}, "mAP": document.get("mAP")}


def scanned(name: str, place: Path) -> Row:
    """A scan alone."""
    files = (place / "model.onnx", "--clean-dir", place / "clean.npz", "--report-dir", place / "scan")
    started = time.process_time()
    patcher("scan", *files, "--quiet", *_FAMILIES.get(name, ()), *_RANGES.get(name, ()))
    return {"task": name, "scan": verdict(place / "scan/scan.json"), "cpu_s": time.process_time() - started}


def verdict(scan: Path) -> str:
    """What a scan says, and of which targets."""
    document = json.loads(scan.read_text(encoding="utf-8"))
    found = [str(item["target"]) for item in document["targets"] if item["verdict"] == document["verdict"]]
    return f"{document['verdict']}{', target ' + ' '.join(found) if found and document['triggers'] else ''}"


def _pair(row: Row, key: str) -> str:
    before, after = row["before"][key], (row["after"] or {}).get(key)
    return "" if before is None else f"{before:.1%}" + ("" if after is None else f" → {after:.1%}")


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    header = ("task", "`--method`", "what was done", "accuracy", "mAP", "ASR", "SIA", "`verify`", "CPU s")
    cells = [
        (
            row["task"],
            f"`{row['method']}`",
            row["made"] + (f" (scan: {row['scan']})" if row["scan"] else ""),
            *(_pair(row, key) for key in ("ACC", "mAP", "ASR", "SIA")),
            {0: "passes", None: "no file: loses too much"}.get(row["verify"], f"ends with {row['verify']}"),
            f"{row['cpu_s']:.0f}",
        )
        for row in rows
    ]
    return markdown_table(header, cells)


def clean_table(rows: list[Row]) -> str:
    """The scans of networks without a backdoor as Markdown."""
    header = ("task, no backdoor", "scan", "CPU s")
    return markdown_table(header, [(row["task"], row["scan"], f"{row['cpu_s']:.0f}") for row in rows])


def main() -> None:
    """Train, harden, measure, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tasks", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--methods", nargs="+", choices=_METHODS, default=list(_METHODS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("build/tasks"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows, clean = [], []
    for name in options.tasks:
        place, other = options.folder / name, options.folder / "clean" / name
        if not (place / "model.onnx").is_file():
            make(name, options.folder, options.seed)
        rows += [
            kept(place / f"{method}.json", partial(measured, name, method, place))
            for method in _METHODS
            if method in options.methods
        ]
        print(table(rows), flush=True)
        if name in _FAMILIES:
            if not (other / "model.onnx").is_file():
                make(name, options.folder / "clean", options.seed, clean_only=True)
            clean.append(kept(other / "scan.json", partial(scanned, name, other)))
    command = shlex.join(["python", "-m", "benchmarks.tasks", *sys.argv[1:]])
    tables = table(rows) + (f"\n\n{clean_table(clean)}" if clean else "")
    write_result("tasks", command=command, rows=[*rows, *clean], tables=tables)


if __name__ == "__main__":
    main()
