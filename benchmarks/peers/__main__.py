# SPDX-License-Identifier: Apache-2.0
"""The defences of the field beside this project's methods: same networks, same images, same machine.

    python -m benchmarks.peers NETS [--nets warp_vgg ...] [--methods ft ft-sam ... auto] [--images 500 2500] [--table]

NETS is a folder as for `benchmarks.attacks`. Each method gets the same number of clean images a class, as many in all
as `--images` says, and its own default or published settings. This project's methods run as commands, NFT, BNA and auto
after a scan with the same images (kept in `--kept`); what they refuse to write counts as the model unchanged. Only the
scores read triggered images: ACC on the test images, ASR and SIA on the triggered ones. Time is processor time, with
the scan. A row is kept as it comes; what is there already is not run again.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.attacks import entries, folder_parser, parse_with_data, run_patcher, score
from benchmarks.peers.anp import prune
from benchmarks.peers.fine_tuning import fine_tune, sharpness_aware
from benchmarks.peers.i_bau import unlearn_perturbation
from benchmarks.peers.unlearning import cleanse
from benchmarks.peers.weights import Setting, make_setting
from benchmarks.record import markdown_table, write_result
from patcher.calibrate.classifier import Classifier
from patcher.calibrate.precision import reduced_precision
from patcher.data.clean_set import read_clean_set
from patcher.data.preprocess import resolve_preprocess
from patcher.model.model import read_model

Row = dict[str, Any]
PEERS: dict[str, Callable[[Setting], None]] = {
    "ft": fine_tune,
    "ft-sam": sharpness_aware,
    "anp": prune,
    "i-bau": unlearn_perturbation,
    "nc": cleanse,
}
OWN = ("unit", "nft", "bna", "auto")
_TRIED = 64
_FLOAT32 = ("i-bau",)  # second derivatives


def measure(entry: Row, method: str, images: int, options: argparse.Namespace) -> Row:
    """One network, one method, so many clean images."""
    source = options.nets_folder / f"{entry['name']}.onnx"
    row: Row = {key: entry.get(key) for key in ("name", "architecture", "attack", "mode", "target")}
    row |= {"method": method, "images": images}
    with tempfile.TemporaryDirectory() as name:
        output = Path(name) / "defended.onnx"
        if method in PEERS:
            row["cpu_s"] = defend(source, method, images, output, options)
        else:
            row |= harden(source, method, images, output, options)
        return row | score(output if output.exists() else source, entry, options)


def defend(source: Path, method: str, images: int, output: Path, options: argparse.Namespace) -> float:
    """Run a peer and write its model; processor seconds."""
    started = time.process_time()
    model = read_model(source)
    preprocess = resolve_preprocess(model)
    limit = images // model.num_classes
    clean_set = read_clean_set(options.clean, model, preprocess, seed=options.seed, limit_per_class=limit)
    classifier = Classifier(model, preprocess, device=torch.device("cpu"))
    if method not in _FLOAT32:
        classifier = reduced_precision(classifier, classifier.tensor(clean_set.images(clean_set.fit[:_TRIED])))
    setting = make_setting(classifier, clean_set, options.seed)
    torch.manual_seed(options.seed)
    PEERS[method](setting)
    setting.write(output)
    return time.process_time() - started


def harden(source: Path, method: str, images: int, output: Path, options: argparse.Namespace) -> Row:
    """Run one of this project's methods as a command, after a scan where it takes one."""
    limit = images // read_model(source).num_classes
    common = ["--clean-dir", str(options.clean), "--seed", str(options.seed), "--limit-per-class", str(limit)]
    flags, seconds = [], 0.0
    if method != "unit":
        scan = options.kept / f"{source.stem}-{images}.scan"
        if not (scan / "cpu_seconds").exists():
            scan.mkdir(parents=True, exist_ok=True)
            run = run_patcher(["scan", str(source), *common, "--report-dir", str(scan), "-q"])
            (scan / "cpu_seconds").write_text(str(run.cpu_seconds))
        flags, seconds = ["--scan", str(scan / "scan.json")], float((scan / "cpu_seconds").read_text())
    flags += ["--method", method, "-o", str(output), "--report-dir", str(output.with_name("report"))]
    run = run_patcher(["harden", str(source), *common, *flags])
    return {"code": run.code, "cpu_s": run.cpu_seconds + seconds, "message": run.stderr.strip()[-300:]}


def table(rows: list[Row]) -> str:
    """Every network's ACC / ASR / SIA by method, and what they come to."""
    methods = [name for name in ("none", *PEERS, *OWN) if any(row["method"] == name for row in rows)]
    parts = []
    for images in sorted({row["images"] for row in rows if row["method"] != "none"}):
        kept = {(row["name"], row["method"]): row for row in rows if row["images"] in (images, 0)}
        names = sorted({name for name, _ in kept})
        lines = [(name, *(_cell(kept.get((name, method))) for method in methods)) for name in names]
        parts.append(f"{images} clean images, ACC / ASR / SIA in %:\n\n" + markdown_table(("network", *methods), lines))
        parts.append(_summary(kept, names, methods))
    return "\n".join(parts)


def _summary(kept: dict[tuple[str, str], Row], names: list[str], methods: list[str]) -> str:
    lines = []
    for method in methods:
        pairs = [(kept[name, "none"], kept[name, method]) for name in names if (name, method) in kept]
        attacked = [pair for pair in pairs if "asr" in pair[1]]
        clean = [pair for pair in pairs if "asr" not in pair[1]]
        if attacked:
            asr = [100 * after["asr"] for _, after in attacked]
            lines.append(
                (
                    method,
                    len(attacked),
                    f"{np.mean(asr):.1f}",
                    f"{max(asr):.1f}",
                    f"{_loss(attacked):.1f}",
                    f"{np.mean([100 * after['sia'] for _, after in attacked]):.1f}",
                    f"{_loss(clean):.1f}" if clean else "-",
                    f"{np.mean([after.get('cpu_s', 0) for _, after in pairs]):.0f}",
                )
            )
    header = ("method", "nets", "mean ASR", "worst ASR", "mean loss", "mean SIA", "loss, clean nets", "CPU s")
    return "\n" + markdown_table(header, lines) + "\n"


def _loss(pairs: list[tuple[Row, Row]]) -> float:
    return float(np.mean([100 * (before["acc"] - after["acc"]) for before, after in pairs]))


def _cell(row: Row | None) -> str:
    if row is None:
        return "-"
    return " / ".join(f"{100 * row[key]:.1f}" for key in ("acc", "asr", "sia") if key in row)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Options of the command line."""
    parser = folder_parser("peers", __doc__, kept=Path("build/peers"))
    parser.add_argument("nets_folder", type=Path, metavar="NETS", help="folder with the networks")
    parser.add_argument("--methods", nargs="+", choices=(*PEERS, *OWN), default=[*PEERS, *OWN])
    parser.add_argument("--images", nargs="+", type=int, default=[500], help="clean images in all")
    parser.add_argument("--seed", type=int, default=0)
    return parse_with_data(parser, arguments)


def main(arguments: list[str] | None = None) -> int:
    """Measure what is asked for and not there yet; print the table."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    path = options.results / f"{options.name}.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    kept = {(row["name"], row["images"], row["method"]): row for row in rows}
    command = shlex.join(["python", "-m", "benchmarks.peers", *arguments])
    for entry in [] if options.table else entries(options.nets_folder):
        if options.nets and entry["name"] not in options.nets:
            continue
        kept.setdefault((entry["name"], 0, "none"), _before(entry, options))
        for images in options.images:
            for method in options.methods:
                key = (entry["name"], images, method)
                if key not in kept:
                    kept[key] = measure(entry, method, images, options)
                    print(*key, _cell(kept[key]), file=sys.stderr, flush=True)
                    rows = [kept[item] for item in sorted(kept)]
                    write_result(options.name, command=command, rows=rows, tables=table(rows), folder=options.results)
    print(table([kept[item] for item in sorted(kept)]))
    return 0


def _before(entry: Row, options: argparse.Namespace) -> Row:
    row: Row = {key: entry.get(key) for key in ("name", "architecture", "attack", "mode", "target")}
    return row | {"method": "none", "images": 0} | score(options.nets_folder / f"{entry['name']}.onnx", entry, options)


if __name__ == "__main__":
    sys.exit(main())
