# SPDX-License-Identifier: Apache-2.0
"""Learning from what a flag caught: `harden --flagged` on networks whose trigger no family expresses.

    python -m benchmarks.caught NETS [--nets warp_r18 ...] [--caught 100] [--false-alarms 10 ...] [--name caught]

NETS is a folder as for `benchmarks.attacks`. Each network is hardened with `--method unit --flag`; a service answers
triggered and clean test images with it and keeps what it flags (`patcher.kept.Keeper`) until there are `--caught`
images. `--false-alarms` of them are clean: the most unusual of the test images, flagged or next to be. `harden --method
nft --flagged` gets that folder and the clean images, all options by default. ACC is on all test images, ASR and SIA on
triggered images that were not caught. "UNIT" stands for the bounds of the same calibration on every image, no flag.

Only this file knows which images are triggered. Rows are kept as they come; what is there is not run again; `--table`
prints what there is.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.attacks import Row, answers, entries, folder_parser, goals, parse_with_data
from benchmarks.record import markdown_table, run_child, write_result
from patcher.data.image_sources import as_float
from patcher.export import apply_patch
from patcher.kept import Keeper
from patcher.model.file import serialize
from patcher.model.model import read_model
from patcher.patch import Flag, Patch, UpperBound, read_patch
from patcher.runtime import GuardedSession

Images = NDArray[np.uint8]


def measure(entry: Row, false_alarms: int, options: argparse.Namespace) -> Row:
    """One network, one share of false alarms."""
    name = entry["name"]
    source = options.nets_folder / f"{name}.onnx"
    flagged = _with_flag(source, options)
    with np.load(options.test) as test, np.load(options.nets_folder / f"{name}.triggered.npz") as triggered:
        clean, labels = test["images"], test["labels"].astype(np.int64)
        images, own = triggered["images"], triggered["labels"].astype(np.int64)
    goal, counted = goals(own, entry)
    images, own, goal = images[counted], own[counted], goal[counted]
    session, rng = GuardedSession(flagged, threads=1), np.random.default_rng(0)
    right = rng.permutation(np.flatnonzero(session.classify(_inputs(images)).flags))[: options.caught - false_alarms]
    unusual = session.classify(_inputs(clean)).trigger_scores
    assert unusual is not None
    wrong = np.argsort(-unusual)[:false_alarms]
    row: Row = {key: entry.get(key) for key in ("name", "architecture", "attack", "mode")}
    row |= {"caught": len(right), "false_alarms": len(wrong)}
    others = np.setdiff1d(np.arange(len(images)), right)

    def score(path: Path) -> Row:
        predicted, found = answers(path, clean)[0], answers(path, images[others])[0]
        rates = {"asr": found == goal[others], "sia": found == own[others]}
        return {"acc": float((predicted == labels).mean()), **{key: float(hit.mean()) for key, hit in rates.items()}}

    with tempfile.TemporaryDirectory() as name_of:
        folder = Path(name_of)
        Keeper(folder / "caught").keep(_inputs(np.concatenate([images[right], clean[wrong]])))
        output = folder / "nft.onnx"
        arguments = ["harden", str(source), "--clean-dir", str(options.clean), "--method", "nft"]
        arguments += ["--flagged", str(folder / "caught"), "-o", str(output), "--report-dir", str(folder / "report")]
        run = run_child([sys.executable, "-m", "patcher", *arguments])
        document = json.loads((folder / "report" / "report.json").read_text())
        row |= {"code": run.code, "cpu_s": run.cpu_seconds, "keep": document["method"]["flagged"]["keep_their_class"]}
        row |= {"before": score(source), "unit": score(_bounded(source, flagged, folder))}
        if output.exists():
            row["nft"] = score(output)
    return row


def _with_flag(source: Path, options: argparse.Namespace) -> Path:
    """The network with a flag; made once."""
    options.kept.mkdir(parents=True, exist_ok=True)
    hardened: Path = options.kept / f"{source.stem}.onnx"
    if not hardened.exists():
        arguments = ["harden", str(source), "--clean-dir", str(options.clean), "--method", "unit", "--flag"]
        arguments += ["-o", str(hardened), "--report-dir", str(options.kept / source.stem), "--quiet"]
        run = run_child([sys.executable, "-m", "patcher", *arguments])
        if run.code:
            raise SystemExit(f"{source.name}: {run.stderr.strip()}")
    return hardened


def _bounded(source: Path, flagged: Path, folder: Path) -> Path:
    """UNIT alone: the bounds of the flag's second view on every image."""
    model = read_model(source)
    patch = read_patch(flagged.with_suffix("") / "patch.safetensors")
    flag = next(item for item in patch.corrections if isinstance(item, Flag))
    bounds = tuple(UpperBound(site.tensor, site.bound) for site in flag.sites)
    path = folder / "unit.onnx"
    path.write_bytes(serialize(apply_patch(model, Patch("unit", model.sha256, bounds))))
    return path


def _inputs(images: Images) -> NDArray[np.float32]:
    return as_float(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    header = ("network", "attack", "caught + false alarms", "before: ACC / ASR / SIA", "UNIT", "NFT --flagged", "keep")
    lines = [
        (
            row["name"],
            f"{row['attack']} {row['mode']}",
            f"{row['caught']} + {row['false_alarms']}",
            *(_cell(row.get(name), row["code"]) for name in ("before", "unit", "nft")),
            row["keep"],
        )
        for row in rows
    ]
    note = "\n`keep`: caught images that keep the original's class under the masks.\n"
    return markdown_table(header, lines) + note


def _cell(found: dict[str, Any] | None, code: int) -> str:
    return f"exit {code}" if found is None else " / ".join(f"{found[key]:.1%}" for key in ("acc", "asr", "sia"))


def parse(arguments: list[str]) -> argparse.Namespace:
    """Options of the command line."""
    parser = folder_parser("caught", __doc__, kept=Path("build/flag"))
    parser.add_argument("nets_folder", type=Path, metavar="NETS", help="folder with the networks")
    parser.add_argument("--caught", type=int, default=100, help="flagged images in all")
    parser.add_argument("--false-alarms", type=int, nargs="+", default=[10], help="how many of them are clean")
    return parse_with_data(parser, arguments)


def main(arguments: list[str] | None = None) -> int:
    """Measure what the options name and what is not there yet; print the table."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    known = [entry for entry in entries(options.nets_folder) if entry["attack"] != "none"]
    if unknown := set(options.nets or ()) - {entry["name"] for entry in known}:
        print(
            f"--nets: backdoored networks of {options.nets_folder} expected, found {sorted(unknown)}", file=sys.stderr
        )
        return 2
    path = options.results / f"{options.name}.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    command = shlex.join(["python", "-m", "benchmarks.caught", *arguments])
    for entry in [] if options.table else known:
        for count in options.false_alarms if not options.nets or entry["name"] in options.nets else []:
            if any((row["name"], row["false_alarms"]) == (entry["name"], count) for row in rows):
                continue
            rows = sorted([*rows, measure(entry, count, options)], key=lambda row: (row["name"], row["false_alarms"]))
            write_result(options.name, command=command, rows=rows, tables=table(rows), folder=options.results)
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
