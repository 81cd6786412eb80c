# SPDX-License-Identifier: Apache-2.0
"""Run-time flags on networks of every kind: ours beside STRIP and IBD-PSC.

    python -m benchmarks.flag NETS [NETS ...] [--nets warp_vgg ...] [--images 1000] [--name flag]

NETS are folders as for `benchmarks.attacks`. Each network is hardened with `--method unit --flag`, default options;
the peers (benchmarks/detectors.py) are fitted on the same clean images. AUROC is of clean test images against
triggered ones that the attack counts and that the network sends to the target: there is nothing to detect in others.
TPR and FPR are at the threshold that leaves 1 % of the held-out clean images flagged; for our flag that is the one in
the file. FPR is on clean test images, which nothing was fitted on. IBD-PSC stands also with the threshold of its
paper, 0.9. Cost is processor time an image, relative to the unhardened network in the same engine, on clean images.

Only this file reads triggered images. A row is kept as it comes, and what is there is not run again; `--table` prints
what there is.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.attacks import Row, entries, folder_parser, goals, parse_with_data
from benchmarks.detectors import IBD_PSC_THRESHOLD, Detector, IbdPsc, Strip
from benchmarks.record import markdown_table, run_child, write_result
from patcher.calibrate.classifier import Classifier
from patcher.calibrate.flag.fit import quantile_between
from patcher.data.clean_set import CleanSet, read_clean_set
from patcher.data.image_sources import as_float
from patcher.data.preprocess import resolve_preprocess
from patcher.measure.scores import auroc
from patcher.model.model import read_model
from patcher.runtime import GuardedSession, create_session

FALSE_ALARMS = 0.01
DETECTORS = ("flag", "strip", "ibd_psc")
_BATCH = 100


def images_of(path: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Pixels `(N, C, H, W)` in [0, 1] and labels `(N,)` of an `.npz`."""
    with np.load(path) as file:
        images, labels = file["images"], file["labels"].astype(np.int64)
    return as_float(np.ascontiguousarray(images.transpose(0, 3, 1, 2))), labels


def attacked(folder: Path, entry: Row) -> NDArray[np.float32]:
    """Triggered images `(M, C, H, W)` that the network does send to the target; none for a clean network."""
    path = folder / f"{entry['name']}.triggered.npz"
    if entry["attack"] == "none" or not path.exists():
        return np.empty((0, 3, 32, 32), np.float32)
    images, labels = images_of(path)
    goal, counted = goals(labels, entry)
    images, goal = images[counted], goal[counted]
    session = create_session(folder / f"{entry['name']}.onnx", threads=1)
    name = session.get_inputs()[0].name
    starts = range(0, len(images), _BATCH)
    found = [session.run(None, {name: images[start : start + _BATCH]})[0].argmax(axis=1) for start in starts]
    turned: NDArray[np.float32] = images[np.concatenate(found) == goal]
    return turned


def measure(folder: Path, entry: Row, options: argparse.Namespace, row: Row) -> Row:
    """One network: what is missing of our flag and of the peers."""
    source = folder / f"{entry['name']}.onnx"
    model = read_model(source)
    preprocess = resolve_preprocess(model)
    clean_set = read_clean_set(options.clean, model, preprocess, seed=0)
    clean = images_of(options.test)[0][: options.images]
    triggered = attacked(folder, entry)[: options.images]
    row = row or {key: entry.get(key) for key in ("name", "architecture", "attack", "mode", "target", "source")}
    row |= {"clean": len(clean), "triggered": len(triggered)}
    if "flag" not in row:
        row["flag"] = _ours(source, clean, triggered, options)
    classifier = Classifier(model, preprocess, device=torch.device("cpu"))
    for name, make in (("strip", Strip), ("ibd_psc", IbdPsc)):
        if name not in row and name in options.detectors:
            row[name] = _peer(make(classifier, clean_set), classifier, clean_set, clean, triggered)
    return row


def _ours(source: Path, clean: NDArray[np.float32], triggered: NDArray[np.float32], options: argparse.Namespace) -> Row:
    """The flag as a service sees it: the hardened file in a `GuardedSession`."""
    options.kept.mkdir(parents=True, exist_ok=True)
    hardened, seconds = options.kept / f"{source.stem}.onnx", None
    if not hardened.exists():
        arguments = ["harden", str(source), "--clean-dir", str(options.clean), "--method", "unit", "--flag"]
        arguments += ["--false-alarms", str(FALSE_ALARMS), "-o", str(hardened)]
        arguments += ["--report-dir", str(options.kept / source.stem), "--quiet"]
        run = run_child([sys.executable, "-m", "patcher", *arguments])
        seconds = run.cpu_seconds
        if run.code:
            return {"code": run.code, "message": run.stderr.strip()[-300:]}
    session = GuardedSession(hardened, threads=1)

    def scores(images: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        answers = session.classify(images)
        assert answers.trigger_scores is not None
        return answers.trigger_scores, answers.flags

    plain = create_session(source, threads=1)
    name = plain.get_inputs()[0].name
    base = _seconds(lambda images: plain.run(None, {name: images}), clean[:_BATCH])
    cost = _seconds(session.classify, clean[:_BATCH]) / base
    unusual, flags = scores(clean)
    row: Row = {"fpr": float(flags.mean()), "cost": cost, "harden_cpu_s": seconds}
    if len(triggered):
        found, raised = scores(triggered)
        row |= {"auroc": auroc(unusual, found), "tpr": float(raised.mean())}
    return row


def _peer(
    detector: Detector,
    classifier: Classifier,
    clean_set: CleanSet,
    clean: NDArray[np.float32],
    triggered: NDArray[np.float32],
) -> Row:
    threshold = quantile_between(detector(clean_set.images(clean_set.held_out)), FALSE_ALARMS)
    with torch.no_grad():
        base = _seconds(lambda images: classifier.logits(classifier.tensor(images)), clean[:_BATCH])
    cost = _seconds(detector, clean[:_BATCH]) / base
    unusual = detector(clean)
    row: Row = {"fpr": float((unusual > threshold).mean()), "cost": cost}
    if isinstance(detector, IbdPsc):
        row |= {"layers": detector.first, "fpr_paper": float((unusual > IBD_PSC_THRESHOLD).mean())}
    if len(triggered):
        found = detector(triggered)
        row |= {"auroc": auroc(unusual, found), "tpr": float((found > threshold).mean())}
        if isinstance(detector, IbdPsc):
            row["tpr_paper"] = float((found > IBD_PSC_THRESHOLD).mean())
    return row


def _seconds(run: Any, images: NDArray[np.float32], rounds: int = 5) -> float:
    """Least processor time of a run."""
    found = []
    for _ in range(rounds):
        start = time.process_time()
        run(images)
        found.append(time.process_time() - start)
    return min(found)


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown, and what they come to."""
    header = ("network", "attack", "architecture", "flag: AUROC / TPR / FPR", "STRIP", "IBD-PSC", "IBD-PSC at 0.9")
    lines = []
    for row in rows:
        planted = "clean" if row["attack"] == "none" else f"{row['attack']} {row['mode']}"
        cells = [_cell(row.get(name, {})) for name in DETECTORS]
        paper = {"tpr": row.get("ibd_psc", {}).get("tpr_paper"), "fpr": row.get("ibd_psc", {}).get("fpr_paper")}
        lines.append((row["name"], planted, row["architecture"], *cells, _cell(paper)))
    return markdown_table(header, lines) + "\n" + summary(rows) + "\n"


def _cell(found: Row) -> str:
    if "code" in found:
        return f"exit {found['code']}"
    text = [f"{found[key]:.3f}" for key in ("auroc", "tpr", "fpr") if found.get(key) is not None]
    return " / ".join(text) or "-"


def summary(rows: Sequence[Row]) -> str:
    """Means, the worst, and the cost of each detector."""
    lines = []
    for name in DETECTORS:
        found = [row[name] for row in rows if "fpr" in row.get(name, {})]
        caught = [item for item in found if "auroc" in item]
        if not caught:
            continue
        areas, rates = ([item[key] for item in caught] for key in ("auroc", "tpr"))
        alarms = [item["fpr"] for item in found]
        lines.append(
            f"{name}: {len(caught)} backdoored and {len(found) - len(caught)} clean networks; AUROC mean "
            f"{np.mean(areas):.3f}, lowest {min(areas):.3f}; TPR mean {np.mean(rates):.3f}, lowest {min(rates):.3f}; "
            f"FPR mean {np.mean(alarms):.3f}, highest {max(alarms):.3f}; "
            f"cost {np.median([item['cost'] for item in found]):.2f} passes."
        )
    return "\n\n".join(lines)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Options of the command line."""
    parser = folder_parser("flag", __doc__, kept=Path("build/flag"))
    parser.add_argument("folders", type=Path, nargs="+", metavar="NETS", help="folders with the networks")
    parser.add_argument("--detectors", nargs="+", choices=DETECTORS, default=list(DETECTORS))
    parser.add_argument("--images", type=int, default=1000, help="clean and triggered test images at most, each")
    return parse_with_data(parser, arguments)


def main(arguments: list[str] | None = None) -> int:
    """Measure what the options name and what is not there yet; print the table."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    known = [(folder, entry) for folder in options.folders for entry in entries(folder)]
    if unknown := set(options.nets or ()) - {entry["name"] for _, entry in known}:
        print(f"--nets: networks of the folders expected, found {sorted(unknown)}", file=sys.stderr)
        return 2
    path = options.results / f"{options.name}.json"
    kept: dict[str, Row] = {row["name"]: row for row in json.loads(path.read_text())["rows"]} if path.exists() else {}
    command = shlex.join(["python", "-m", "benchmarks.flag", *arguments])
    for folder, entry in [] if options.table else known:
        if options.nets and entry["name"] not in options.nets:
            continue
        kept[entry["name"]] = measure(folder, entry, options, kept.get(entry["name"], {}))
        rows = [kept[name] for name in sorted(kept)]
        write_result(options.name, command=command, rows=rows, tables=table(rows), folder=options.results)
        print(table([kept[entry["name"]]]).splitlines()[2], file=sys.stderr, flush=True)
    print(table([kept[name] for name in sorted(kept)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
