# SPDX-License-Identifier: Apache-2.0
"""Harden every model of the zoo and measure it before and after, in plain ONNX Runtime.

    python -m benchmarks.zoo --shared ../shared --method unit --seed 0 [--forms all] [-- FLAGS]

Each model is hardened by `patcher harden` in a process of its own, with the clean images and no
other, so that time and peak memory are what a user pays. The scores are computed here and not by
the product: ACC on `cifar10/test.npz`, ASR and SIA on the model's triggered images.

- ACC: share of clean test images that get their label.
- ASR: share of triggered images, those of the target class left out, that get the attacker's class;
  for all-to-all, that get the class after their own.
- SIA: share of the same images that get their true class.

What follows `--` goes to `patcher harden` as it stands. Results: `benchmarks/results/<name>.json|.md`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.record import ChildRun, markdown_table, run_child, write_result

FORMS = {"folded": ".onnx", "bn": ".bn.onnx", "dynamo": ".dynamo.onnx"}
Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Scores:
    """ACC, ASR and SIA, 0 to 1; the last two are None for a model without an attack."""

    acc: float
    asr: float | None
    sia: float | None


@dataclass(frozen=True)
class Row:
    """One hardened file; `after` is None where `patcher harden` wrote no model."""

    model: str
    form: str
    before: Scores
    after: Scores | None
    code: int
    seconds: float
    peak_mib: float
    message: str


def predict(path: Path, images: Images, *, batch_size: int = 250) -> Labels:
    """Predicted classes `(N,)` of uint8 images `(N, H, W, C)`, given to the model as pixels in [0, 1]."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    first_output = session.get_outputs()[0].name
    classes = []
    for start in range(0, len(images), batch_size):
        pixels = images[start : start + batch_size].transpose(0, 3, 1, 2).astype(np.float32) / 255
        classes.append(np.asarray(session.run([first_output], {name: pixels})[0]).argmax(1))
    return np.concatenate(classes)


def score(path: Path, entry: dict[str, Any], shared: Path) -> Scores:
    """Scores of the model at `path`, described by its `entry` in zoo.json."""
    with np.load(shared / "cifar10" / "test.npz") as test:
        acc = float((predict(path, test["images"]) == test["labels"]).mean())
    if entry["mode"] == "none":
        return Scores(acc, None, None)
    with np.load(shared / "zoo" / f"{entry['name']}.triggered.npz") as triggered:
        predicted, labels = predict(path, triggered["images"]), triggered["labels"]
    if entry["mode"] == "a2a":
        wanted, counted = (labels + 1) % 10, np.ones(len(labels), bool)
    else:
        wanted, counted = np.full_like(labels, entry["target"]), labels != entry["target"]
    hit, right = (predicted == wanted)[counted], (predicted == labels)[counted]
    return Scores(acc, float(hit.mean()), float(right.mean()))


def harden(source: Path, output: Path, options: argparse.Namespace) -> ChildRun:
    """Run `patcher harden` on `source` in a process of its own."""
    command = [sys.executable, "-m", "patcher", "harden", str(source)]
    command += ["--clean-dir", str(options.shared / "cifar10" / "clean"), "--method", options.method]
    command += ["--seed", str(options.seed), "-o", str(output), "--report-dir", str(output.parent / "report")]
    return run_child([*command, *options.flags])


def measure(entry: dict[str, Any], form: str, options: argparse.Namespace) -> Row:
    """Harden one file of the zoo and score it on both sides."""
    source = options.shared / "zoo" / f"{entry['name']}{FORMS[form]}"
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "hardened.onnx"
        run = harden(source, output, options)
        after = score(output, entry, options.shared) if output.exists() else None
    message = run.stderr.strip().splitlines()[-1:] if run.code else []
    before = score(source, entry, options.shared)
    return Row(entry["name"], form, before, after, run.code, run.seconds, run.peak_mib, "".join(message))


def _change(before: float | None, after: float | None) -> str:
    """A cell `before → after` in per cent; a dash for what is not there."""
    return " → ".join("-" if value is None else f"{value:.1%}" for value in (before, after))


def table(rows: list[Row]) -> str:
    """The rows as Markdown, with what failed below."""
    header = ("model", "file", "ACC", "ASR", "SIA", "time", "peak memory", "exit code")
    lines = []
    for row in rows:
        after = row.after or Scores(float("nan"), None, None)
        lines.append(
            (
                row.model,
                row.form,
                _change(row.before.acc, row.after.acc if row.after else None),
                _change(row.before.asr, after.asr),
                _change(row.before.sia, after.sia),
                f"{row.seconds:.0f} s",
                f"{row.peak_mib:.0f} MiB",
                row.code,
            )
        )
    failures = "".join(f"\n{row.model} ({row.form}): {row.message}\n" for row in rows if row.message)
    return markdown_table(header, lines) + failures


def parse(arguments: list[str]) -> argparse.Namespace:
    """Options of the command line; what follows `--` is kept for `patcher harden`."""
    own, flags = arguments, []
    if "--" in arguments:
        own, flags = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with zoo/ and cifar10/")
    parser.add_argument("--method", default="unit")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--models", nargs="+", help="names from zoo.json (default: all)")
    parser.add_argument("--forms", nargs="+", choices=[*FORMS, "all"], default=["folded"])
    parser.add_argument("--name", help="stem of the result files (default: zoo-METHOD)")
    options = parser.parse_args(own)
    options.flags = flags
    if "all" in options.forms:
        options.forms = list(FORMS)
    return options


def main(arguments: list[str] | None = None) -> int:
    """Measure what the options name, print the table, write the results; 1 where a model was not hardened."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    entries = json.loads((options.shared / "zoo" / "zoo.json").read_text())
    unknown = set(options.models or ()) - {entry["name"] for entry in entries}
    if unknown:
        print(f"--models: names from zoo.json expected, found {sorted(unknown)}", file=sys.stderr)
        return 2
    rows = []
    for entry in entries:
        if options.models and entry["name"] not in options.models:
            continue
        for form in options.forms:
            rows.append(measure(entry, form, options))
            print(table(rows[-1:]).splitlines()[2], file=sys.stderr)
    command = shlex.join(["python", "-m", "benchmarks.zoo", *arguments])
    text = table(rows)
    write_result(options.name or f"zoo-{options.method}", command=command, rows=rows, tables=text)
    print(text)
    return 1 if any(row.after is None for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
