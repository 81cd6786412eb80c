# SPDX-License-Identifier: Apache-2.0
"""Opinions on a network that need no form of trigger, side by side, in seconds a network.

    python -m benchmarks.second_opinions FOLDER [FOLDER ...] [--seed 0] [--name second-opinions]

Folders as for `benchmarks.attacks`; 1000 clean images. Each opinion names the class that stands out most, and its
score:

    latent  smallest shift of the last features (`calibrate/scan/latent.py`), which is the one that the scan asks
    one way shortest way between two classes beside the way back (`calibrate/scan/one_way.py`), which the scan asks too
    noise   BAN (NeurIPS 2024): scales and shifts of all channels moved by up to 0.3 (`--noise`) of themselves, 30 sign
            steps that raise the loss on clean images; a backdoored network is said to collapse into the attacker's
            class. Score: the share of images of other classes that end in the one that most end in
    bounds  the answers under bounds at mean + 2.5 deviations beside the plain ones: a class whose probability on clean
            images hangs on rare, high activations loses most. Score: how far its mean loss lies above the median of
            the classes, in deviations
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.attacks import entries
from benchmarks.record import RESULTS, markdown_table, write_result
from patcher.calibrate.classifier import Classifier
from patcher.calibrate.scan.latent import latent_distances, latent_scores, latent_space
from patcher.calibrate.scan.one_way import one_ways
from patcher.calibrate.scan.outliers import robust_deviation
from patcher.calibrate.statistics import Moments, stream_moments
from patcher.calibrate.unit.bounds import Bounds
from patcher.data.clean_set import CleanSet, Indices, read_clean_set
from patcher.data.preprocess import resolve_preprocess
from patcher.graph.sites import find_sites
from patcher.model.model import read_model

_IMAGES = 1000
_BATCH = 128
_NOISE_STEPS = 30
_Z = 2.5
OPINIONS = ("latent", "one way", "noise", "bounds")
Opinion = Callable[[Classifier, CleanSet, Indices], dict[str, Any]]


def measure(path: Path, entry: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """What each opinion says of one network."""
    model = read_model(path)
    preprocess = resolve_preprocess(model)
    classifier = Classifier(model, preprocess, device=torch.device("cpu"))
    clean_set = read_clean_set(options.shared / "cifar10" / "clean", model, preprocess, seed=options.seed)
    chosen = np.sort(np.random.default_rng(options.seed).permutation(clean_set.fit)[:_IMAGES])
    row: dict[str, Any] = {key: entry.get(key) for key in ("name", "architecture", "attack", "mode", "target")}
    opinions: dict[str, Opinion] = {
        "latent": latent,
        "one way": one_way,
        "noise": partial(noise, size=options.noise),
        "bounds": bounds,
    }
    for name, ask in opinions.items():
        started = time.process_time()
        row[name] = ask(classifier, clean_set, chosen) | {"cpu_s": time.process_time() - started}
    return row


def latent(classifier: Classifier, clean_set: CleanSet, chosen: Indices) -> dict[str, Any]:
    """The nearest class, its score and the gap to the next."""
    space = latent_space(classifier, clean_set, chosen, batch_size=_BATCH)
    distances = latent_distances(space) if space else None
    if distances is None:
        return {"class": None, "score": None, "gap": None}
    nearest, following = (int(item) for item in np.argsort(distances, kind="stable")[:2])
    score, gap = latent_scores(distances)[nearest], distances[following] / distances[nearest]
    return {"class": nearest, "score": float(score), "gap": float(gap), "distances": distances.tolist()}


def one_way(classifier: Classifier, clean_set: CleanSet, chosen: Indices) -> dict[str, Any]:
    """The way between two classes that is shortest beside the way back."""
    ways = one_ways(latent_space(classifier, clean_set, chosen, batch_size=_BATCH))
    if not ways:
        return {"class": None, "score": None, "source": None}
    return {"class": ways[0].target, "score": ways[0].score, "source": ways[0].source}


def noise(classifier: Classifier, clean_set: CleanSet, chosen: Indices, size: float) -> dict[str, Any]:
    """Where clean images go under the worst noise on scales and shifts of all channels."""
    sites = [site for site in find_sites(classifier.model) if site.kind == "channel"]
    moments = stream_moments(classifier, sites, classifier.batches(clean_set, chosen, _BATCH), granularity="channel")
    moved = {name: torch.zeros(2, *found.mean.shape, requires_grad=True) for name, found in moments.items()}
    rewrite = {name: _moved(moments[name], moved[name]) for name in moments}
    order = np.random.default_rng(0)
    for _ in range(_NOISE_STEPS):
        batch = np.sort(order.choice(chosen, min(_BATCH, len(chosen)), replace=False))
        images, wanted = next(iter(classifier.batches(clean_set, batch, _BATCH)))
        loss = torch.nn.functional.cross_entropy(classifier.logits(images, rewrite=rewrite), wanted)
        slopes = torch.autograd.grad(loss, list(moved.values()))
        with torch.no_grad():
            for value, slope in zip(moved.values(), slopes, strict=True):
                value.add_(slope.sign(), alpha=2 * size / _NOISE_STEPS).clamp_(-size, size)
    logits = _logits(classifier, clean_set, chosen, rewrite)
    labels, answers = clean_set.labels[chosen], logits.argmax(axis=1)
    shares = [float((answers[labels != k] == k).mean()) for k in range(logits.shape[1])]
    found = int(np.argmax(shares))
    return {"class": found, "score": shares[found], "accuracy": float((answers == labels).mean()), "shares": shares}


def _moved(moments: Moments, moved: Tensor) -> Callable[[Tensor], Tensor]:
    mean = moments.mean.float()
    return lambda value: mean * (1 + moved[1]) + (value - mean) * (1 + moved[0])


def bounds(classifier: Classifier, clean_set: CleanSet, chosen: Indices) -> dict[str, Any]:
    """Which class loses most of its probability under bounds."""
    sites = [site for site in find_sites(classifier.model) if site.kind == "activation"]
    moments = stream_moments(classifier, sites, classifier.batches(clean_set, chosen, _BATCH), granularity="channel")
    plain = _probabilities(_logits(classifier, clean_set, chosen, {}))
    with torch.no_grad():
        cut = _probabilities(_logits(classifier, clean_set, chosen, Bounds(moments, _Z).rewrite))
    lost = (plain - cut).mean(axis=0)
    found = int(np.argmax(lost))
    divergence = (cut * (np.log(cut + 1e-12) - np.log(plain + 1e-12))).sum(axis=1)
    score = (lost[found] - np.median(lost)) / max(robust_deviation(lost), 1e-6)
    return {"class": found, "score": float(score), "divergence": float(divergence.mean()), "lost": lost.tolist()}


@torch.no_grad()
def _logits(
    classifier: Classifier, clean_set: CleanSet, chosen: Indices, rewrite: Mapping[str, Callable[[Tensor], Tensor]]
) -> NDArray[np.float64]:
    batches = classifier.batches(clean_set, chosen, _BATCH)
    return np.concatenate([classifier.logits(images, rewrite=rewrite).double().numpy() for images, _ in batches])


def _probabilities(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown; an opinion's cell is its class, score and what else it gives."""
    header = ("network", "attack", "architecture", "planted", "latent", "one way", "noise", "bounds", "CPU s each")
    lines = [
        (
            row["name"],
            "clean" if row["attack"] == "none" else f"{row['attack']} {row['mode']}",
            row["architecture"],
            "-" if row["target"] is None else row["target"],
            "-" if row["latent"]["score"] is None else "{class}: {score:.1f}, gap {gap:.2f}".format(**row["latent"]),
            "-" if row["one way"]["score"] is None else "{source} to {class}: {score:.1f}".format(**row["one way"]),
            "{class}: {score:.0%}, accuracy {accuracy:.0%}".format(**row["noise"]),
            "{class}: {score:.1f}, divergence {divergence:.3f}".format(**row["bounds"]),
            ", ".join(f"{row[name]['cpu_s']:.0f}" for name in OPINIONS),
        )
        for row in rows
    ]
    return markdown_table(header, lines) + "\n" + summary(rows) + "\n"


def summary(rows: list[dict[str, Any]]) -> str:
    """How often each opinion names the attacker's class, and above every clean network's score."""
    said = []
    for name in OPINIONS:
        planted = [row for row in rows if row["attack"] != "none" and isinstance(row["target"], int)]
        clean = [row[name]["score"] for row in rows if row["attack"] == "none" and row[name]["score"] is not None]
        right = [row for row in planted if row[name]["class"] == row["target"]]
        above = [row for row in right if clean and row[name]["score"] > max(clean)]
        said.append(
            f"{name}: the attacker's class on {len(right)} of {len(planted)}, {len(above)} of them above every clean "
            f"network's score ({max(clean, default=float('nan')):.2f} at most)"
        )
    return "; ".join(said) + "."


def main(arguments: list[str] | None = None) -> int:
    """Measure every network of the folders and print the table."""
    arguments = sys.argv[1:] if arguments is None else arguments
    description = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.second_opinions", description=description)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with cifar10/")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--noise", type=float, default=0.3, help="largest change of a scale or shift, of itself")
    parser.add_argument("--name", default="second-opinions", help="stem of the result files")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    options = parser.parse_args(arguments)
    rows = [
        measure(folder / f"{entry['name']}.onnx", entry, options)
        for folder in options.folders
        for entry in entries(folder)
    ]
    text = table(rows)
    command = shlex.join(["python", "-m", "benchmarks.second_opinions", *arguments])
    write_result(options.name, command=command, rows=rows, tables=text, folder=options.results)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
