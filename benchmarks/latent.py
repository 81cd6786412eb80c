# SPDX-License-Identifier: Apache-2.0
"""The scan's second opinion alone: how near each class is in the last features, on many networks in seconds each.

    python -m benchmarks.latent FOLDER [FOLDER ...] [--seed 0] [--name latent]

Folders as for `benchmarks.attacks`. Score and gap are those that the verdict asks for (docs/scan.md); 1000 clean
images.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.attacks import entries
from benchmarks.record import RESULTS, markdown_table, write_result
from patcher.calibrate.classifier import Classifier
from patcher.calibrate.scan.latent import latent_distances, latent_scores
from patcher.data.clean_set import read_clean_set
from patcher.data.preprocess import resolve_preprocess
from patcher.model.model import read_model

_IMAGES = 1000


def measure(path: Path, entry: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """One network's nearest class, its score and the gap to the next."""
    model = read_model(path)
    preprocess = resolve_preprocess(model)
    classifier = Classifier(model, preprocess, device=torch.device("cpu"))
    clean_set = read_clean_set(options.shared / "cifar10" / "clean", model, preprocess, seed=options.seed)
    chosen = np.random.default_rng(options.seed).permutation(clean_set.fit)[:_IMAGES]
    started = time.process_time()
    distances = latent_distances(classifier, clean_set, np.sort(chosen), batch_size=128)
    row = {key: entry.get(key) for key in ("name", "architecture", "attack", "mode", "target")}
    row |= {"cpu_s": time.process_time() - started, "nearest": None, "score": None, "gap": None}
    if distances is not None:
        nearest, following = np.argsort(distances, kind="stable")[:2]
        row |= {"nearest": int(nearest), "score": float(latent_scores(distances)[nearest])}
        row |= {"gap": float(distances[following] / distances[nearest]), "distances": distances.tolist()}
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    header = ("network", "attack", "architecture", "planted", "nearest", "score", "gap", "CPU s")
    lines = [
        (
            row["name"],
            "clean" if row["attack"] == "none" else f"{row['attack']} {row['mode']}",
            row["architecture"],
            "-" if row["target"] is None else row["target"],
            row["nearest"],
            "-" if row["score"] is None else f"{row['score']:.1f}",
            "-" if row["gap"] is None else f"{row['gap']:.2f}",
            f"{row['cpu_s']:.1f}",
        )
        for row in rows
    ]
    return markdown_table(header, lines)


def main(arguments: list[str] | None = None) -> int:
    """Measure every network of the folders and print the table."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latent", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with cifar10/")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="latent", help="stem of the result files")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    options = parser.parse_args(arguments)
    rows = [
        measure(folder / f"{entry['name']}.onnx", entry, options)
        for folder in options.folders
        for entry in entries(folder)
    ]
    text = table(rows)
    command = shlex.join(["python", "-m", "benchmarks.latent", *arguments])
    write_result(options.name, command=command, rows=rows, tables=text, folder=options.results)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
