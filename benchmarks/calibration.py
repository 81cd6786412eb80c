# SPDX-License-Identifier: Apache-2.0
"""What calibration costs, beside straightforward implementations of the published procedures.

    python -m benchmarks.calibration growth      UNIT: seconds a step and peak memory over the number of images
    python -m benchmarks.calibration equal       UNIT and NFT: time to the end, and what was reached there

`ours`: the defaults of `patcher calibrate`. `published`: the papers' and authors' settings through the same code.
UNIT: the whole fit set each step, 300 steps at 1e-3, cross-entropy, the mean bound of each site as regulariser,
the authors' schedule of alpha, a measurement on held-out images after each step. NFT: 1000 steps of 128 images,
MixUp with labels. Each runs in a process of its own. `growth`: a step is the processor time (of all threads) from
one report of progress to the next; the median is given. `equal`: a bound is *tight* by its ratio to the largest
clean activation of its channel, the mean over channels and sites; ACC and ASR are of the zoo's test images, which
no procedure sees.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.record import RESULTS, markdown_table, run_child, write_result
from patcher.calibrate.classifier import Classifier
from patcher.calibrate.statistics import stream_moments
from patcher.commands.apply import apply
from patcher.commands.calibrate import calibrate
from patcher.commands.evaluate import evaluate
from patcher.data.clean_set import read_clean_set
from patcher.data.preprocess import resolve_preprocess
from patcher.graph.sites import find_sites
from patcher.model.model import read_model
from patcher.patch import Patch, UpperBound

_MODEL, _TARGET = "badnets_r18", 9

_PUBLISHED: dict[str, Any] = {
    "learning_rate": 0.001,
    "loss": "cross-entropy",
    "regularizer": "absolute",
    "alpha_schedule": "authors",
    "alpha": 0.001,
    "augment": False,
    "check_every": 1,
}
_PUBLISHED_STEPS = 300
_PUBLISHED_NFT: dict[str, Any] = {"steps": 1000, "minibatch": 128, "targets": "labels"}
_FIT_SHARE = 0.8
_CLASSES = 10


@dataclass(frozen=True)
class End:
    """Where one procedure ended, and what it took."""

    method: str
    procedure: str
    steps: int
    seconds: float
    peak_mib: float
    held_out_before: float
    held_out: float
    tightness: float | None
    acc: float
    asr: float


@dataclass(frozen=True)
class Row:
    """One procedure on so many images."""

    procedure: str
    images: int
    steps: int
    step_s: float
    total_s: float
    peak_mib: float
    load: float


def child(procedure: str, images: int, steps: int, shared: Path) -> list[float]:
    """Calibrate, and return the processor seconds at each report of progress."""
    options: dict[str, Any] = {"steps": steps, "epsilon": 0.5, "limit_per_class": images // _CLASSES}
    if procedure == "published":
        fit = int(_FIT_SHARE * images)
        options |= {**_PUBLISHED, "minibatch": fit, "batch_size": fit}
    moments: list[float] = []
    calibrate(
        shared / "zoo" / f"{_MODEL}.onnx",
        clean_dir=shared / "cifar10" / "clean",
        progress=lambda what, done, total: moments.append(time.process_time()),
        **options,
    )
    return moments


def measure(procedure: str, images: int, steps: int, shared: Path) -> Row:
    """One row, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.calibration", "growth", "--shared", str(shared), "--child", procedure]
    run = run_child([*command, "--images", str(images), "--steps", str(steps)])
    if run.code:
        raise SystemExit(f"{procedure}, {images} images: {run.stderr.strip().splitlines()[-1:]}")
    moments = json.loads(run.stdout.strip().splitlines()[-1])
    # The first step pays for what is set up once.
    seconds = np.diff(np.array(moments))[1:]
    return Row(procedure, images, steps, float(np.median(seconds)), run.seconds, run.peak_mib, os.getloadavg()[0])


def finish(method: str, procedure: str, images: int, shared: Path) -> dict[str, Any]:
    """Calibrate to the end, time that alone, then score the result."""
    options: dict[str, Any] = {"method": method, "epsilon": 0.02, "limit_per_class": images // _CLASSES}
    fit = int(_FIT_SHARE * images)
    if procedure == "published":
        full = {**_PUBLISHED, "steps": _PUBLISHED_STEPS, "minibatch": fit, "batch_size": fit}
        options |= full if method == "unit" else _PUBLISHED_NFT
    path, clean = shared / "zoo" / f"{_MODEL}.onnx", shared / "cifar10" / "clean"
    started = time.perf_counter()
    fitted = calibrate(path, clean_dir=clean, **options)
    seconds = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        baked = Path(folder) / "out.onnx"
        apply(path, fitted.patch, output=baked)
        attack = shared / "zoo" / f"{_MODEL}.triggered.npz"
        scored = evaluate(baked, data=shared / "cifar10" / "test.npz", triggered=attack, target=_TARGET)
    return {
        "steps": fitted.calibration.summary["steps"],
        "seconds": seconds,
        "held_out_before": fitted.accuracy.before,
        "held_out": fitted.accuracy.after,
        "tightness": tightness(fitted.patch, path, clean, images) if method == "unit" else None,
        "acc": scored.accuracy.value,
        "asr": scored.attack.asr.value if scored.attack else None,
    }


def tightness(patch: Patch, path: Path, clean: Path, images: int) -> float:
    """Bounds over the largest clean activations of their channels: the mean over channels, then sites."""
    model = read_model(path)
    preprocess = resolve_preprocess(model)
    classifier = Classifier(model, preprocess, device=torch.device("cpu"))
    clean_set = read_clean_set(clean, model, preprocess, limit_per_class=images // _CLASSES)
    sites = [site for site in find_sites(model) if site.kind == "activation"]
    found = stream_moments(classifier, sites, classifier.batches(clean_set, np.arange(len(clean_set)), 128))
    bounds = {item.tensor: item.bound for item in patch.corrections if isinstance(item, UpperBound)}
    ratios = []
    for name, bound in bounds.items():
        high = found[name].high.numpy().ravel()
        ratios.append(float((bound.ravel()[high > 0] / high[high > 0]).mean()))
    return float(np.mean(ratios))


def equal(options: argparse.Namespace) -> tuple[list[End], str]:
    """Both procedures of both methods to their end."""
    rows = []
    for method in options.methods:
        for procedure in ("published", "ours"):
            command = [sys.executable, "-m", "benchmarks.calibration", "equal", "--shared", str(options.shared)]
            command += ["--child", procedure, "--methods", method, "--images", str(options.images[0])]
            run = run_child(command)
            if run.code:
                raise SystemExit(f"{method}, {procedure}: {run.stderr.strip().splitlines()[-1:]}")
            found = json.loads(run.stdout.strip().splitlines()[-1])
            rows.append(End(method, procedure, peak_mib=run.peak_mib, **found))
            print(rows[-1], file=sys.stderr, flush=True)
    seconds = {(row.method, row.procedure): row.seconds for row in rows}
    lines = [
        (
            row.method,
            row.procedure,
            row.steps,
            f"{row.seconds:.0f} s",
            f"{seconds[row.method, 'published'] / row.seconds:.1f}x",
            f"{row.peak_mib:.0f} MiB",
            f"{row.held_out_before:.1%} → {row.held_out:.1%}",
            "" if row.tightness is None else f"{row.tightness:.2f}",
            f"{row.acc:.1%}",
            f"{row.asr:.1%}",
        )
        for row in rows
    ]
    header = ("method", "procedure", "steps", "time", "faster", "peak memory", "held out", "tightness", "ACC", "ASR")
    return rows, markdown_table(header, lines)


def growth(options: argparse.Namespace) -> tuple[list[Row], str]:
    """Both procedures over the number of images, and the plot."""
    procedures = ("ours", "published")
    rows = [measure(name, images, options.steps, options.shared) for name in procedures for images in options.images]
    RESULTS.mkdir(parents=True, exist_ok=True)
    plot(rows, RESULTS / "calibration-growth.png")
    return rows, table(rows) + "\n![growth with images](calibration-growth.png)\n"


def table(rows: list[Row]) -> str:
    """One line a run."""
    lines = [
        (row.procedure, row.images, row.steps, f"{row.step_s:.2f} s", f"{row.peak_mib:.0f} MiB", f"{row.load:.1f}")
        for row in rows
    ]
    header = ("procedure", "images", "steps run", "a step, processor time", "peak memory", "load average")
    note = (
        "\nOf the images, 80 % are fitted on. Peak memory is of the whole process, about half of it PyTorch itself.\n"
    )
    return markdown_table(header, lines) + note


def plot(rows: list[Row], path: Path) -> None:
    """Peak memory and seconds a step over the number of images."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(8, 3.4))
    for procedure in dict.fromkeys(row.procedure for row in rows):
        chosen = [row for row in rows if row.procedure == procedure]
        images = [row.images for row in chosen]
        panels[0].plot(images, [row.step_s for row in chosen], "o-", label=procedure)
        panels[1].plot(images, [row.peak_mib for row in chosen], "o-", label=procedure)
    for panel, label in zip(panels, ("processor seconds a step", "peak memory, MiB"), strict=True):
        panel.set_xlabel("clean images")
        panel.set_ylabel(label)
        panel.set_ylim(bottom=0)
    panels[0].legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})


def parse(arguments: list[str]) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.calibration", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("what", choices=["growth", "equal"])
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with zoo/ and cifar10/")
    parser.add_argument("--images", nargs="+", type=int, help="growth: 100 200 400 800, equal: 500")
    parser.add_argument("--methods", nargs="+", choices=["unit", "nft"], default=["unit", "nft"], help="equal: which")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--child", choices=["ours", "published"], help="run one calibration and print its progress")
    options = parser.parse_args(arguments)
    options.images = options.images or ([100, 200, 400, 800] if options.what == "growth" else [500])
    return options


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write the results."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    if options.child:
        images = options.images[0]
        found = (
            child(options.child, images, options.steps, options.shared)
            if options.what == "growth"
            else finish(options.methods[0], options.child, images, options.shared)
        )
        print(json.dumps(found))
        return 0
    rows, text = growth(options) if options.what == "growth" else equal(options)
    command = shlex.join(["python", "-m", "benchmarks.calibration", *arguments])
    write_result(f"calibration-{options.what}", command=command, rows=rows, tables=text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
