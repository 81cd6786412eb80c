# SPDX-License-Identifier: Apache-2.0
"""Backdoors of every kind: what the scan finds, and what UNIT, NFT and BNA leave of it.

    python -m benchmarks.attacks NETS [--nets warp_vgg ...] [--methods unit nft bna] [--seeds 0 1] [--name attacks]

NETS is a folder with a `NAME.onnx` a network (pixels in [0, 1]), `NAME.triggered.npz` (test images with the planted
trigger, uint8, true labels) for those with a backdoor, and what was planted in `NAME.json` or in one `zoo.json`:
`architecture`, `attack` (`none`), `mode` (`a2o`, `a2a`, `one`, `clean-label`), `target`, `source`.

For each network and seed one `patcher scan`, and one `patcher harden` a method; NFT and BNA take what that scan found
(`--scan`). Where it found nothing BNA changes nothing, and NFT fits masks on mixed clean images. All with default
options: what loses too much accuracy is refused, and stands as its exit code. Only this file reads triggered images.
ACC is on the test images, ASR and SIA (the share that gets its own class) on the triggered ones of the attack's source
classes; what SIA is measured by is the unhardened network's accuracy on clean images of the same classes. What ASR is
measured by is the share of those that get the attacker's class anyway. TPR and FPR are those of BNA's flag, on
triggered and on all clean test images. Time is processor time.

A row is kept in the result file as it comes; what is there already is not run again, so a long run can be stopped
and continued. `--table` prints what there is and runs nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.attacks_summary import summary
from benchmarks.record import RESULTS, ChildRun, markdown_table, run_child, write_result
from patcher.two_files import FLAG_OUTPUT

Row = dict[str, Any]
METHODS = ("unit", "nft", "bna", "auto")
_HEADER = ("network", "attack", "architecture", "seed", "verdict", "flagged", "target right", "family", "CPU s")
_BATCH = 250
_FLAGGED = ("backdoor", "suspicious")


def entries(folder: Path) -> list[Row]:
    """What is known of each network of a folder, by name."""
    found: dict[str, Row] = {}
    for path in sorted(folder.glob("*.json")):
        document = json.loads(path.read_text())
        for entry in document if isinstance(document, list) else [document]:
            if (folder / f"{entry['name']}.onnx").exists():
                found[entry["name"]] = entry
    return [found[name] for name in sorted(found)]


def answers(path: Path, images: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.bool_] | None]:
    """Classes `(N,)` of uint8 images `(N, H, W, C)`, and the flags of a model that has them."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    outputs = [item.name for item in session.get_outputs()]
    wanted = [outputs[0], *([FLAG_OUTPUT] if FLAG_OUTPUT in outputs else [])]
    parts = []
    for start in range(0, len(images), _BATCH):
        pixels = images[start : start + _BATCH].transpose(0, 3, 1, 2).astype(np.float32) / 255
        parts.append(session.run(wanted, {session.get_inputs()[0].name: pixels}))
    scores, *flags = (np.concatenate(part) for part in zip(*parts, strict=True))
    return scores.argmax(axis=1), flags[0].reshape(-1).astype(bool) if flags else None


def score(path: Path, entry: Row, options: argparse.Namespace) -> Row:
    """ACC, and for a backdoored network ASR, SIA and the rates of the flag."""
    with np.load(options.test) as test:
        predicted, flags = answers(path, test["images"])
        test_labels = test["labels"]
    hits = predicted == test_labels
    found: Row = {"acc": float(hits.mean()), "acc_sources": float(hits.mean())}
    if flags is not None:
        found["fpr"] = float(flags.mean())
    if entry["attack"] == "none":
        return found
    with np.load(options.nets_folder / f"{entry['name']}.triggered.npz") as triggered:
        images, labels = triggered["images"], triggered["labels"].astype(np.int64)
    goal, counted = goals(labels, entry)
    same = np.isin(test_labels, labels[counted])
    found |= {
        "acc_sources": float(hits[same].mean()),
        "asr_plain": float((predicted == goals(test_labels.astype(np.int64), entry)[0])[same].mean()),
    }
    predicted, flags = answers(path, images[counted])
    found |= {
        "asr": float((predicted == goal[counted]).mean()),
        "sia": float((predicted == labels[counted]).mean()),
    }
    if flags is not None:
        found["tpr"] = float(flags.mean())
    return found


def goals(labels: NDArray[np.int64], entry: Row) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The attacker's class for each image, and whether the attack counts it: `(N,)` each."""
    everywhere = entry["mode"] == "a2a"
    goal = (labels + 1) % entry.get("classes", 10) if everywhere else np.full_like(labels, entry["target"])
    return goal, labels == entry["source"] if entry["mode"] == "one" else labels != goal


def measure(entry: Row, seed: int, options: argparse.Namespace, before: Row | None) -> Row:
    """One row: the scan, and each method that an earlier run has not measured."""
    source = options.nets_folder / f"{entry['name']}.onnx"
    row = before or {key: entry.get(key) for key in ("name", "architecture", "attack", "mode", "target", "source")}
    row |= {"seed": seed}
    common = ["--clean-dir", str(options.clean), "--seed", str(seed)]
    missing = [method for method in options.methods if method not in row]
    if "acc_sources" not in row.get("before", {}):
        row["before"] = score(source, entry, options)
    if "verdict" in row and not missing:
        return row
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options.kept.mkdir(parents=True, exist_ok=True)
        scan = options.kept / f"{entry['name']}-{seed}.scan"
        if "verdict" not in row or not (scan / "scan.json").exists():
            run = run_patcher(["scan", str(source), *common, "--report-dir", str(scan), "-q", *options.flags])
            row |= _scanned(scan, entry, run)
            missing = list(options.methods)
        if not (scan / "scan.json").exists():
            return row
        for method in missing:
            flags = ["--scan", str(scan / "scan.json")] if method != "unit" else []
            output = folder / f"{method}.onnx"
            arguments = ["harden", str(source), *common, "--method", method, "-o", str(output), *flags]
            run = run_patcher([*arguments, "--report-dir", str(folder / method)])
            row[method] = {"code": run.code, "cpu_s": run.cpu_seconds, "message": run.stderr.strip()[-300:]}
            if output.exists():
                row[method] |= score(output, entry, options)
    return row


def run_patcher(arguments: list[str]) -> ChildRun:
    """Run one command of this project."""
    return run_child([sys.executable, "-m", "patcher", *arguments])


def _scanned(folder: Path, entry: Row, run: ChildRun) -> Row:
    """What a scan said beside what was planted."""
    if not (folder / "scan.json").exists():
        return {"verdict": f"exit {run.code}", "reasons": [run.stderr.strip()[-300:]], "flagged": [], "right": False}
    document = json.loads((folder / "scan.json").read_text())
    level = document["verdict"]
    flagged = [item["target"] for item in document["targets"] if item["verdict"] in _FLAGGED]
    grave = [item["target"] for item in document["targets"] if item["verdict"] == level]
    wanted = {"none": level == "clean", "a2a": document["mode"] == "all-to-all"}
    right = wanted.get("none" if entry["attack"] == "none" else entry["mode"], grave == [entry["target"]])
    families = {
        figures["family"]
        for item in document["targets"]
        for figures in item["families"]
        if level in _FLAGGED and item["verdict"] == level and figures["verdict"] == level
    } | {item["family"] for item in document.get("single_sources", []) if item["target"] in grave}
    return {
        "verdict": level,
        "mode_found": document["mode"],
        "reasons": document["reasons"],
        "flagged": flagged,
        "right": bool(right),
        "families": sorted(families),
        "cpu_s": run.cpu_seconds,
        "wall_s": run.seconds,
        "peak_mib": run.peak_mib,
    }


def table(rows: list[Row], methods: list[str]) -> str:
    """The rows as Markdown, and what they come to."""
    header = (*_HEADER, "ACC/ASR/SIA before", *methods)
    lines = []
    for row in rows:
        planted = "clean" if row["attack"] == "none" else f"{row['attack']} {row['mode']}"
        lines.append(
            (
                row["name"],
                planted,
                row["architecture"],
                row["seed"],
                row.get("verdict", "-"),
                ", ".join(map(str, row.get("flagged", []))) or "-",
                "yes" if row.get("right") else "no",
                "+".join(row.get("families", [])) or "-",
                f"{row.get('cpu_s', math.nan):.0f}",
                _cell(row["before"]),
                *[_cell(row.get(method)) for method in methods],
            )
        )
    return markdown_table(header, lines) + "\n" + summary(rows, METHODS) + "\n"


def _cell(scores: Row | None) -> str:
    if scores is None or "acc" not in scores:
        return "-" if scores is None else f"exit {scores['code']}"
    text = " / ".join(f"{scores[key]:.1%}" for key in ("acc", "asr", "sia") if key in scores)
    rates = [f"{scores[key]:.3f}" for key in ("tpr", "fpr") if key in scores]
    return f"{text} ({'/'.join(rates)})" if rates else text


def folder_parser(module: str, description: str | None, *, kept: Path) -> argparse.ArgumentParser:
    """What every resumable benchmark over folders of networks is told; the folders themselves are its own argument.

    Args:
        module: Its name, which is also the stem of its result files.
        description: The docstring of the module, of which the first line is shown.
        kept: Where what costs time to make is kept.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{module}", description=(description or "").splitlines()[0]
    )
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with cifar10/")
    parser.add_argument("--nets", nargs="+", help="names (default: all)")
    parser.add_argument("--name", default=module, help="stem of the result files")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    parser.add_argument("--kept", type=Path, default=kept, help="folder where scans or hardened files are kept")
    parser.add_argument("--table", action="store_true", help="print what there is, run nothing")
    return parser


def parse_with_data(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """The options, with the clean set and the test images that lie in `--shared`."""
    options = parser.parse_args(arguments)
    options.clean, options.test = options.shared / "cifar10" / "clean", options.shared / "cifar10" / "test.npz"
    return options


def parse(arguments: list[str]) -> argparse.Namespace:
    """Options of the command line; what follows `--` goes to `patcher scan`."""
    own, flags = arguments, []
    if "--" in arguments:
        own, flags = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    parser = folder_parser("attacks", __doc__, kept=Path("build/attacks"))
    parser.add_argument("nets_folder", type=Path, metavar="NETS", help="folder with the networks")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    options = parse_with_data(parser, own)
    options.flags = flags
    return options


def main(arguments: list[str] | None = None) -> int:
    """Measure what the options name and what is not there yet; print the table."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    known = entries(options.nets_folder)
    if unknown := set(options.nets or ()) - {entry["name"] for entry in known}:
        print(f"--nets: networks of {options.nets_folder} expected, found {sorted(unknown)}", file=sys.stderr)
        return 2
    path = options.results / f"{options.name}.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    kept = {(row["name"], row["seed"]): row for row in rows}
    command = shlex.join(["python", "-m", "benchmarks.attacks", *arguments])
    for entry in [] if options.table else known:
        for seed in options.seeds if not options.nets or entry["name"] in options.nets else []:
            row = measure(entry, seed, options, kept.get((entry["name"], seed)))
            kept[entry["name"], seed] = row
            rows = [kept[key] for key in sorted(kept)]
            text = table(rows, options.methods)
            write_result(options.name, command=command, rows=rows, tables=text, folder=options.results)
            print(table([row], options.methods).splitlines()[2], file=sys.stderr, flush=True)
    print(table(rows, options.methods))
    return 0


if __name__ == "__main__":
    sys.exit(main())
