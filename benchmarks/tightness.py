# SPDX-License-Identifier: Apache-2.0
"""How tight must bounds be: accuracy and attack success over the tightness, on many networks.

    python -m benchmarks.tightness FOLDER [FOLDER ...] [--nets warp_r18 ...] [--name tightness]

Folders as for `benchmarks.attacks`. Two kinds of bound, both by channel at mean + z standard deviations over the fit
images of 2500 clean ones, at every activation, without any optimisation:

    values   every value: what UNIT bounds
    means    the mean of a channel over the places of a picture: the whole map is scaled down to it (`--means`)

Where no z keeps the accuracy and takes the attack's success, no bounds of that kind will: the triggered activations
lie inside the clean range. The last column is the lowest success at a loss of two points at most.

A row is kept in the result file as it comes; what is there already is not measured again. `--table` prints what there
is and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.attacks import entries
from benchmarks.record import RESULTS, markdown_table, write_result
from patcher.calibrate.classifier import Classifier, Rewrite
from patcher.calibrate.statistics import MomentSums, stream_moments
from patcher.data.clean_set import read_clean_set
from patcher.data.preprocess import resolve_preprocess
from patcher.graph.site import Site
from patcher.graph.sites import find_sites
from patcher.model.model import read_model

Row = dict[str, Any]
_DEVIATIONS = (6.0, 4.0, 3.0, 2.0, 1.5, 1.0)
_IMAGES = 400
_BATCH = 125
_ALLOWED = 0.02


def measure(folder: Path, entry: Row, options: argparse.Namespace) -> Row:
    """One network: ACC, ASR and SIA without bounds and at every tightness."""
    model = read_model(folder / f"{entry['name']}.onnx")
    preprocess = resolve_preprocess(model)
    classifier = Classifier(model, preprocess, device=torch.device("cpu"))
    clean_set = read_clean_set(options.shared / "cifar10" / "clean", model, preprocess, seed=0)
    sites = [site for site in find_sites(model) if site.kind == "activation"]
    images = _images(folder, entry, options)
    row: Row = {key: entry.get(key) for key in ("name", "architecture", "attack", "mode", "target", "source")}
    row["none"] = _scores(classifier, images, {})
    for kind, make in (("values", value_bounds), ("means", mean_bounds)):
        bounds = make(classifier, sites, lambda: classifier.batches(clean_set, clean_set.fit, _BATCH))
        row[kind] = {f"{z:g}": _scores(classifier, images, bounds(z)) for z in _DEVIATIONS}
    return row


Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]


def value_bounds(classifier: Classifier, sites: Sequence[Site], batches: Batches) -> Callable[[float], Rewrite]:
    """``min(x, bound)`` at each site, as a function of the deviations."""
    moments = stream_moments(classifier, sites, batches())

    def bounded(name: str, z: float) -> Callable[[Tensor], Tensor]:
        limit = (moments[name].mean + z * moments[name].std).float()
        return lambda value: torch.minimum(value, limit)

    return lambda z: {name: bounded(name, z) for name in moments}


def mean_bounds(classifier: Classifier, sites: Sequence[Site], batches: Batches) -> Callable[[float], Rewrite]:
    """``x * bound / max(mean of x, bound)`` a channel and picture, as a function of the deviations."""
    wide = [site for site in sites if len(site.shape) == 4]
    sums = {site.tensor: MomentSums() for site in wide}
    with torch.no_grad():
        for images, _ in batches():
            for name, value in classifier.run(images, fetch=tuple(sums), scores=False).items():
                if name in sums:
                    sums[name].add(value.mean((2, 3), keepdim=True), (0,))

    def bounded(name: str, z: float) -> Callable[[Tensor], Tensor]:
        found = sums[name].moments()
        limit = (found.mean + z * found.std).float().clamp_min(1e-6)
        return lambda value: value * (limit / torch.maximum(value.mean((2, 3), keepdim=True), limit))

    return lambda z: {name: bounded(name, z) for name in sums}


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
    classifier: Classifier, images: dict[str, tuple[NDArray[Any], NDArray[Any]]], rewrite: Rewrite
) -> dict[str, float]:
    answers, found = {}, {}
    for name, (pictures, wanted) in images.items():
        if name != "sia":  # the same pictures as for "asr"
            pixels = torch.from_numpy(pictures.transpose(0, 3, 1, 2).astype(np.float32) / 255)
            pieces = [classifier.logits(piece, rewrite=rewrite).argmax(1) for piece in pixels.split(_BATCH)]
            answers = {"classes": torch.cat(pieces).numpy()}
        found[name] = float((answers["classes"] == wanted).mean())
    return found


def table(rows: list[Row]) -> str:
    """The rows as Markdown: ACC / ASR in per cent, one line a kind of bound."""
    header = ("network", "attack", "none", "bound on", *(f"z = {z:g}" for z in _DEVIATIONS), "best at 2 points")
    lines = []
    for row in rows:
        attack = "clean" if row["attack"] == "none" else f"{row['attack']} {row['mode']}"
        for kind in ("values", "means"):
            first = (row["name"], attack, _cell(row["none"])) if kind == "values" else ("", "", "")
            lines.append((*first, kind, *map(_cell, row[kind].values()), _best(row["none"], row[kind])))
    return markdown_table(header, lines)


def _cell(scores: dict[str, float]) -> str:
    return " / ".join(f"{100 * scores[key]:.0f}" for key in ("acc", "asr") if key in scores)


def _best(before: dict[str, float], bounds: dict[str, dict[str, float]]) -> str:
    if "asr" not in before:
        return ""
    kept = [item for item in (before, *bounds.values()) if item["acc"] >= before["acc"] - _ALLOWED]
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
                print("\n".join(table(rows[-1:]).splitlines()[2:]), file=sys.stderr, flush=True)
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
