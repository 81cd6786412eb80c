# SPDX-License-Identifier: Apache-2.0
"""How tight must bounds be: accuracy and attack success over the tightness, on many networks.

    python -m benchmarks.tightness FOLDER [FOLDER ...] [--nets warp_r18 ...] [--name tightness]

Folders as for `benchmarks.attacks`. Bounds stand at mean + z standard deviations of every activation, by channel, over
the fit images of 2500 clean ones, without any optimisation: where no z keeps the accuracy and takes the attack's
success, no bounds will, for the triggered activations lie inside the clean range. The last column is the best of it:
the lowest success at a loss of two points at most.

A row is kept in the result file as it comes; what is there already is not measured again. `--table` prints what there
is and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.attacks import entries
from benchmarks.record import RESULTS, markdown_table, write_result
from patcher.calibrate.classifier import Classifier
from patcher.calibrate.patched import patch_rewrite
from patcher.calibrate.statistics import stream_moments
from patcher.data.clean_set import read_clean_set
from patcher.data.preprocess import resolve_preprocess
from patcher.graph.sites import find_sites
from patcher.model.model import read_model
from patcher.patch import UpperBound

Row = dict[str, Any]
_DEVIATIONS = (8.0, 6.0, 4.0, 3.0, 2.5, 2.0, 1.5)
_IMAGES = 500
_BATCH = 125
_ALLOWED = 0.02


def measure(folder: Path, entry: Row, options: argparse.Namespace) -> Row:
    """One network: ACC, ASR and SIA without bounds and at every tightness."""
    model = read_model(folder / f"{entry['name']}.onnx")
    preprocess = resolve_preprocess(model)
    classifier = Classifier(model, preprocess, device=torch.device("cpu"))
    clean_set = read_clean_set(options.shared / "cifar10" / "clean", model, preprocess, seed=0)
    sites = [site for site in find_sites(model) if site.kind == "activation"]
    moments = stream_moments(classifier, sites, classifier.batches(clean_set, clean_set.fit, _BATCH))
    images = _images(folder, entry, options)
    row: Row = {key: entry.get(key) for key in ("name", "architecture", "attack", "mode", "target", "source")}
    row["bounds"] = {"none": _scores(classifier, images, [])}
    for deviations in _DEVIATIONS:
        bounds = [
            UpperBound(name, (found.mean + deviations * found.std).float().numpy()) for name, found in moments.items()
        ]
        row["bounds"][f"{deviations:g}"] = _scores(classifier, images, bounds)
    return row


def _images(folder: Path, entry: Row, options: argparse.Namespace) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Pictures ``(N, H, W, C)`` and the class that is counted: ``acc`` clean ones; ``asr``, ``sia`` triggered ones."""
    with np.load(options.shared / "cifar10" / "test.npz") as test:
        found = {"acc": (test["images"][:_IMAGES], test["labels"][:_IMAGES])}
    if entry["attack"] == "none":
        return found
    with np.load(folder / f"{entry['name']}.triggered.npz") as triggered:
        images, labels = triggered["images"], triggered["labels"].astype(np.int64)
    goal = (labels + 1) % entry.get("classes", 10) if entry["mode"] == "a2a" else np.full_like(labels, entry["target"])
    counted = np.flatnonzero(labels == entry["source"] if entry["mode"] == "one" else labels != goal)[:_IMAGES]
    return found | {"asr": (images[counted], goal[counted]), "sia": (images[counted], labels[counted])}


@torch.no_grad()
def _scores(
    classifier: Classifier, images: dict[str, tuple[NDArray[Any], NDArray[Any]]], bounds: list[UpperBound]
) -> dict[str, float]:
    rewrite, answers, found = patch_rewrite(classifier, bounds), {}, {}
    for name, (pictures, wanted) in images.items():
        if name != "sia":  # the same pictures as for "asr"
            pixels = torch.from_numpy(pictures.transpose(0, 3, 1, 2).astype(np.float32) / 255)
            pieces = [classifier.logits(piece, rewrite=rewrite).argmax(1) for piece in pixels.split(_BATCH)]
            answers = {"classes": torch.cat(pieces).numpy()}
        found[name] = float((answers["classes"] == wanted).mean())
    return found


def table(rows: list[Row]) -> str:
    """The rows as Markdown: ACC / ASR in per cent."""
    header = ("network", "attack", "none", *(f"z = {z:g}" for z in _DEVIATIONS), "best at a loss of 2 points")
    lines = []
    for row in rows:
        attack = "clean" if row["attack"] == "none" else f"{row['attack']} {row['mode']}"
        lines.append((row["name"], attack, *map(_cell, row["bounds"].values()), _best(row["bounds"])))
    return markdown_table(header, lines)


def _cell(scores: dict[str, float]) -> str:
    return " / ".join(f"{100 * scores[key]:.0f}" for key in ("acc", "asr") if key in scores)


def _best(bounds: dict[str, dict[str, float]]) -> str:
    kept = [item for item in bounds.values() if item["acc"] >= bounds["none"]["acc"] - _ALLOWED]
    if "asr" not in bounds["none"]:
        return ""
    return f"{100 * min(item['asr'] for item in kept):.0f}"


def main(arguments: list[str] | None = None) -> int:
    """Measure what is not there yet and print the table."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tightness", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--nets", nargs="+", help="names (default: all)")
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with cifar10/")
    parser.add_argument("--name", default="tightness", help="stem of the result files")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    parser.add_argument("--table", action="store_true", help="print what there is, measure nothing")
    options = parser.parse_args(arguments)
    path = options.results / f"{options.name}.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    command = shlex.join(["python", "-m", "benchmarks.tightness", *arguments])
    for folder in [] if options.table else options.folders:
        for entry in entries(folder):
            wanted = not options.nets or entry["name"] in options.nets
            if wanted and entry["name"] not in [row["name"] for row in rows]:
                rows.append(measure(folder, entry, options))
                write_result(options.name, command=command, rows=rows, tables=table(rows), folder=options.results)
                print(table(rows[-1:]).splitlines()[2], file=sys.stderr, flush=True)
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
