# SPDX-License-Identifier: Apache-2.0
"""Seconds a step and peak memory of UNIT, beside its published full-batch procedure, over the number of images.

    python -m benchmarks.calibration --shared ../shared

`ours`: the defaults of `patcher calibrate`. `published`: the authors' setting through the same code: the whole
fit set each step, cross-entropy, the mean bound of each site as regulariser, their schedule of alpha, a
measurement on held-out images after each step. Each runs in a process of its own. A step is the processor time
(of all threads) from one report of progress to the next; the median is given. Steps to an equal result are not
measured here.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import RESULTS, markdown_table, run_child, write_result

_PUBLISHED = {
    "loss": "cross-entropy",
    "regularizer": "absolute",
    "alpha_schedule": "authors",
    "alpha": 0.001,
    "augment": False,
    "check_every": 1,
}
_FIT_SHARE = 0.8
_CLASSES = 10


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
    from patcher import pipeline

    options: dict[str, Any] = {"steps": steps, "epsilon": 0.5, "limit_per_class": images // _CLASSES}
    if procedure == "published":
        fit = int(_FIT_SHARE * images)
        options |= {**_PUBLISHED, "minibatch": fit, "batch_size": fit}
    moments: list[float] = []
    pipeline.calibrate(
        shared / "zoo" / "badnets_r18.onnx",
        clean_dir=shared / "cifar10" / "clean",
        progress=lambda what, done, total: moments.append(time.process_time()),
        **options,
    )
    return moments


def measure(procedure: str, images: int, steps: int, shared: Path) -> Row:
    """One row, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.calibration", "--shared", str(shared), "--child", procedure]
    run = run_child([*command, "--images", str(images), "--steps", str(steps)])
    if run.code:
        raise SystemExit(f"{procedure}, {images} images: {run.stderr.strip().splitlines()[-1:]}")
    moments = json.loads(run.stdout.strip().splitlines()[-1])
    # The first step pays for what is set up once.
    seconds = np.diff(np.array(moments))[1:]
    return Row(procedure, images, steps, float(np.median(seconds)), run.seconds, run.peak_mib, os.getloadavg()[0])


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
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with zoo/ and cifar10/")
    parser.add_argument("--images", nargs="+", type=int, default=[100, 200, 400, 800])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--child", choices=["ours", "published"], help="run one calibration and print its progress")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write the results."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    if options.child:
        print(json.dumps(child(options.child, options.images[0], options.steps, options.shared)))
        return 0
    procedures = ("ours", "published")
    rows = [measure(name, images, options.steps, options.shared) for name in procedures for images in options.images]
    RESULTS.mkdir(parents=True, exist_ok=True)
    plot(rows, RESULTS / "calibration.png")
    text = table(rows) + "\n![growth with images](calibration.png)\n"
    command = shlex.join(["python", "-m", "benchmarks.calibration", *arguments])
    write_result("calibration", command=command, rows=rows, tables=text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
