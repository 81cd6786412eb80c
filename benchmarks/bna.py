# SPDX-License-Identifier: Apache-2.0
"""What BNA costs at run time, and what each part of it adds.

    python -m benchmarks.bna cost --triggers badnets_r18=T.npz [--models badnets_r18 ...]
    python -m benchmarks.bna ablation --triggers badnets_r18=T.npz blend_r18=U.npz

`cost`: paired runs of the hardened model against the original, one thread, batches of 64: clean images that
get no flagged class, natural clean images, and triggered images that all get a flagged class.

`ablation`: re-estimation alone, then the optimiser on omega, on all four of the paper's parameters, and with
the term for the answers. ACC and both FPR on `cifar10/test.npz`, ASR, SIA and TPR on the model's triggered
images; none of these was used to calibrate. FPR_t is of clean images that get a flagged class.

Trigger files come from `patcher scan` (`triggers.npz`); a model that is given none is scanned first.
Results: `benchmarks/results/bna-cost.json|.md` and `bna-ablation.json|.md`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import patcher
from benchmarks.record import markdown_table, time_pairs, write_result
from patcher.runtime import create_session
from patcher.steps.flags import read_targets
from patcher.two_files import FLAG_OUTPUT

BATCH = 64
VARIANTS: dict[str, dict[str, Any]] = {
    "re-estimation": {"learn": "none"},
    "+ omega": {"learn": "omega", "answer": 0.0},
    "+ mu, sigma, nu (the paper)": {"learn": "all", "answer": 0.0},
    "+ answers (the default)": {"learn": "all"},
}


@dataclass(frozen=True)
class CostRow:
    """One form on one kind of traffic; `suspicious` rows of the batch go through the second pass."""

    model: str
    form: str
    traffic: str
    suspicious: int
    ratio: float
    low: float
    high: float
    file_ratio: float


@dataclass(frozen=True)
class AblationRow:
    """Shares, 0 to 1, of one variant."""

    model: str
    variant: str
    acc_before: float
    acc: float
    asr: float
    sia: float
    tpr: float
    fpr_target: float
    fpr: float
    seconds: float


def pixels(path: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Images `(N, 3, 32, 32)` in [0, 1] and labels of an `.npz`."""
    with np.load(path) as file:
        return file["images"].transpose(0, 3, 1, 2).astype(np.float32) / 255, file["labels"]


def harden(name: str, output: Path, options: argparse.Namespace, **given: Any) -> None:
    """Harden a zoo model with BNA."""
    triggers = options.triggers.get(name)
    if triggers:
        given["triggers"] = str(triggers)
    patcher.harden(
        options.shared / "zoo" / f"{name}.onnx",
        clean_dir=options.shared / "cifar10" / "clean",
        method="bna",
        output=output,
        seed=options.seed,
        limit_per_class=options.limit_per_class,
        epsilon=0.1,  # a bad variant is to be measured, not refused
        **given,
    )


def run(path: Path, images: NDArray[np.float32], *names: str) -> list[NDArray[Any]]:
    """Outputs of a model over all images."""
    session = create_session(path)
    image = session.get_inputs()[0].name
    parts = [session.run(list(names), {image: images[i : i + 250]}) for i in range(0, len(images), 250)]
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def targets_of(session: Any) -> NDArray[np.int64]:
    """The flagged classes of a hardened model; none where nothing was found."""
    found = read_targets(session)
    return np.empty(0, np.int64) if found is None else found


def cost(name: str, options: argparse.Namespace) -> list[CostRow]:
    """Every form on every kind of traffic."""
    source = options.shared / "zoo" / f"{name}.onnx"
    clean, _ = pixels(options.shared / "cifar10" / "test.npz")
    triggered, _ = pixels(options.shared / "zoo" / f"{name}.triggered.npz")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for form in ("if", "where"):
            output = Path(folder) / f"{form}.onnx"
            harden(name, output, options, branch=form, steps=0)
            after, before = create_session(output, threads=1), create_session(source, threads=1)
            targets = targets_of(after)
            suspect = {
                key: np.isin(run(source, images, "logits")[0].argmax(1), targets)
                for key, images in (("clean", clean), ("triggered", triggered))
            }
            traffic = {
                "no suspicious row": clean[~suspect["clean"]],
                "natural": clean,
                "all suspicious": triggered[suspect["triggered"]],
            }
            for kind, images in traffic.items():
                batch = {before.get_inputs()[0].name: images[:BATCH]}
                if len(images) < BATCH:
                    continue  # all-to-all: every row is suspicious
                timing = time_pairs(
                    partial(before.run, None, batch), partial(after.run, None, batch), pairs=options.pairs
                )
                count = int(np.isin(before.run(None, batch)[0].argmax(1), targets).sum())
                size = output.stat().st_size / source.stat().st_size
                rows.append(CostRow(name, form, kind, count, timing.ratio, timing.low, timing.high, size))
    return rows


def ablation(name: str, options: argparse.Namespace) -> list[AblationRow]:
    """Every variant of one model."""
    entry = next(item for item in json.loads((options.shared / "zoo" / "zoo.json").read_text()) if item["name"] == name)
    clean, truth = pixels(options.shared / "cifar10" / "test.npz")
    attacked, labels = pixels(options.shared / "zoo" / f"{name}.triggered.npz")
    source = options.shared / "zoo" / f"{name}.onnx"
    original = run(source, clean, "logits")[0].argmax(1)
    all_to_all = entry["mode"] == "a2a"
    wanted = (labels + 1) % 10 if all_to_all else np.full_like(labels, entry["target"])
    counted = np.ones(len(labels), bool) if all_to_all else labels != entry["target"]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for variant in options.variants:
            given = VARIANTS[variant]
            output, started = Path(folder) / "hardened.onnx", time.perf_counter()
            harden(name, output, options, **given)
            seconds = time.perf_counter() - started
            targets = targets_of(create_session(output))
            scores, flags = run(output, clean, "logits", FLAG_OUTPUT)
            found, flagged = run(output, attacked, "logits", FLAG_OUTPUT)
            answer = found.argmax(1)[counted]
            rows.append(
                AblationRow(
                    name,
                    variant,
                    float((original == truth).mean()),
                    float((scores.argmax(1) == truth).mean()),
                    float((answer == wanted[counted]).mean()),
                    float((answer == labels[counted]).mean()),
                    float(flagged[counted].mean()),
                    float(flags[np.isin(original, targets)].mean()),
                    float(flags.mean()),
                    seconds,
                )
            )
            print(rows[-1], file=sys.stderr)
    return rows


def cost_table(rows: list[CostRow]) -> str:
    """Rows as Markdown."""
    header = ("model", "form", "64 images", "second pass", "time, hardened : original", "file")
    lines = [
        (r.model, r.form, r.traffic, r.suspicious, f"{r.ratio:.2f} [{r.low:.2f}, {r.high:.2f}]", f"{r.file_ratio:.3f}x")
        for r in rows
    ]
    return markdown_table(header, lines)


def ablation_table(rows: list[AblationRow]) -> str:
    """Rows as Markdown."""
    header = ("model", "variant", "ACC", "ASR", "SIA", "TPR", "FPR_t", "FPR", "time")
    lines = [
        (
            row.model,
            row.variant,
            f"{row.acc_before:.1%} → {row.acc:.1%}",
            *(f"{value:.1%}" for value in (row.asr, row.sia, row.tpr, row.fpr_target, row.fpr)),
            f"{row.seconds:.0f} s",
        )
        for row in rows
    ]
    return markdown_table(header, lines)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bna", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=["cost", "ablation"])
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with zoo/ and cifar10/")
    parser.add_argument("--triggers", nargs="*", default=[], metavar="MODEL=FILE", help="from `patcher scan`")
    parser.add_argument("--models", nargs="+", help="names from zoo.json (default: those of --triggers)")
    parser.add_argument("--limit-per-class", type=int, help="clean images a class (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="ablation: only these")
    parser.add_argument("--pairs", type=int, default=40, help="timed pairs (cost)")
    parser.add_argument("--name", help="stem of the result files (default: bna-PART)")
    options = parser.parse_args(arguments)
    options.triggers = dict(item.split("=", 1) for item in options.triggers)
    options.models = options.models or list(options.triggers) or ["badnets_r18"]
    return options


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write the results."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    rows: list[Any] = []
    for name in options.models:
        rows += cost(name, options) if options.part == "cost" else ablation(name, options)
    text = cost_table(rows) if options.part == "cost" else ablation_table(rows)
    command = shlex.join(["python", "-m", "benchmarks.bna", *arguments])
    write_result(options.name or f"bna-{options.part}", command=command, rows=rows, tables=text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
