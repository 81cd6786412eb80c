# SPDX-License-Identifier: Apache-2.0
"""What NFT reaches on the zoo, setting by setting, and what it costs at run time.

    python -m benchmarks.nft settings --triggers FOLDER      losses, learning rate, steps, augmentation
    python -m benchmarks.nft ablation --triggers FOLDER      {plain, centred} x {keep, reestimate} x {BN, folded}
    python -m benchmarks.nft latency MODEL HARDENED          paired runs, and the nodes after optimisation

Each setting is one `patcher harden --method nft` in a process of its own, scored as `benchmarks.zoo` does; with
`--epsilon 0.2`, so that what costs too much accuracy is measured and not refused.
FOLDER holds one `NAME.npz` a model, written by `patcher scan`: triggers estimated from clean images alone.
What follows `--` goes to every run. Results: `benchmarks/results/nft-<table>.json|.md`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections import Counter
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from benchmarks.record import markdown_table, time_pairs, write_result
from benchmarks.zoo import Row, measure

Flags = tuple[str, ...]

_CLEAN: dict[str, Flags] = {
    "MixUp": (),
    "MixUp, labels (as published)": ("--targets", "labels"),
    "MixUp, labels, 1000 steps": ("--targets", "labels", "--steps", "1000"),
    "MixUp, lr 0.5": ("--learning-rate", "0.5"),
    "MixUp, no augmentation": ("--no-augment",),
    "MixUp, statistics re-estimated": ("--bn-stats", "reestimate"),
    "statistics re-estimated, no mask": ("--bn-stats", "reestimate", "--steps", "0"),
    "MixUp, one image a class": ("--limit-per-class", "1"),
}
_TRIGGERED: dict[str, Flags] = {
    "Eq. 3": (),
    "Eq. 3, labels": ("--targets", "labels"),
    "Eq. 3, with MixUp": ("--mixup", "1"),
    "Eq. 3, lr 0.1, 80 steps": ("--learning-rate", "0.1", "--steps", "80"),
    "Eq. 3, no floor": ("--floor", "0"),
    "Eq. 3, bfloat16 steps": ("--precision", "auto"),
    "Eq. 3, one image a class": ("--limit-per-class", "1"),
}
_ABLATION: dict[str, Flags] = {
    f"{mask}, {statistics}": ("--mask", mask, "--bn-stats", statistics)
    for mask in ("plain", "centred")
    for statistics in ("keep", "reestimate")
}


def settings(options: argparse.Namespace) -> dict[str, Flags]:
    """Settings of a table by their name; those that need triggers get the placeholder of their file."""
    given: Flags = ("--triggers", "{triggers}") if options.triggers else ()
    if options.table == "ablation":
        return {name: (*flags, *given) for name, flags in _ABLATION.items()}
    return dict(_CLEAN) | {name: (*flags, *given) for name, flags in _TRIGGERED.items() if given}


def run(entry: dict[str, Any], form: str, flags: Flags, options: argparse.Namespace) -> Row:
    """Harden one file of the zoo under one setting and score it."""
    triggers = str(options.triggers / f"{entry['name']}.npz") if options.triggers else ""
    own = ["--epsilon", "0.2", *(flag.replace("{triggers}", triggers) for flag in flags)]
    if "--limit-per-class" not in own:
        own = ["--limit-per-class", str(options.images_per_class), *own]
    chosen = argparse.Namespace(shared=options.shared, method="nft", seed=options.seed, flags=[*own, *options.flags])
    return measure(entry, form, chosen)


def cells(name: str, row: Row) -> tuple[str, ...]:
    """One line of a table."""

    def change(part: str) -> str:
        values = (getattr(row.before, part), getattr(row.after, part) if row.after else None)
        return " → ".join("-" if value is None else f"{100 * value:.1f}" for value in values)

    return (
        name,
        row.model,
        row.form,
        change("acc"),
        change("asr"),
        change("sia"),
        f"{row.seconds:.0f} s",
        str(row.code),
    )


def measure_tables(options: argparse.Namespace, command: str) -> int:
    """Run every setting on every model and write the table after each, so that a cut run leaves what it has."""
    entries = [item for item in json.loads((options.shared / "zoo" / "zoo.json").read_text())]
    chosen = [item for item in entries if item["name"] in options.models]
    forms = ("bn", "folded") if options.table == "ablation" else ("folded",)
    rows, lines = [], []
    header = ("setting", "model", "file", "ACC, %", "ASR, %", "SIA, %", "time", "exit code")
    for name, flags in settings(options).items():
        if options.only and name not in options.only:
            continue
        for entry in chosen:
            for form in forms:
                row = run(entry, form, flags, options)
                rows.append({"setting": name, "flags": flags, **asdict(row)})
                lines.append(cells(name, row))
                print(" | ".join(lines[-1]), row.message, file=sys.stderr, flush=True)
                write_result(options.name, command=command, rows=rows, tables=markdown_table(header, lines))
    print(markdown_table(header, lines))
    return 0


def optimised_nodes(path: Path) -> Counter[str]:
    """Operators of a model after ONNX Runtime's graph optimisation, by count."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "optimised.onnx"
        session_options = onnxruntime.SessionOptions()
        session_options.log_severity_level = 3  # it warns that such a file is for this machine alone
        session_options.optimized_model_filepath = str(target)
        onnxruntime.InferenceSession(str(path), session_options, providers=["CPUExecutionProvider"])
        return Counter(node.op_type for node in onnx.load(target).graph.node)


def latency(options: argparse.Namespace, command: str) -> int:
    """Time both models in turns, one thread, and compare their optimised graphs; 1 where nodes were added."""
    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = 1
    sessions = [
        onnxruntime.InferenceSession(str(path), session_options, providers=["CPUExecutionProvider"])
        for path in (options.model, options.hardened)
    ]
    entry = sessions[0].get_inputs()[0]
    added = optimised_nodes(options.hardened) - optimised_nodes(options.model)
    lines, rows = [], []
    for batch in (1, 8):
        shape = [batch if index == 0 else length for index, length in enumerate(entry.shape)]
        feed = {entry.name: np.random.default_rng(0).random(shape, np.float32)}
        base, other = (partial(session.run, None, feed) for session in sessions)
        timing = time_pairs(base, other, pairs=options.pairs)
        rows.append({"batch": batch, "added": dict(added), **asdict(timing)})
        lines.append((str(batch), f"{timing.base_ms:.3f} ms", f"{timing.other_ms:.3f} ms", str(timing)))
    nodes = ", ".join(f"{count} {name}" for name, count in added.items()) or "none"
    text = markdown_table(("batch", "original", "hardened", "ratio of medians"), lines)
    text += f"\nNodes added to the optimised graph: {nodes}.\n"
    write_result(options.name, command=command, rows=rows, tables=text)
    print(text)
    return 1 if added else 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """Options of the command line; what follows `--` is kept for `patcher harden`."""
    own, flags = arguments, []
    if "--" in arguments:
        own, flags = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nft", description=(__doc__ or "").splitlines()[0])
    tables = parser.add_subparsers(dest="table", required=True)
    for name in ("settings", "ablation"):
        part = tables.add_parser(name)
        part.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with zoo/ and cifar10/")
        part.add_argument("--triggers", type=Path, help="folder with NAME.npz of 'patcher scan'")
        part.add_argument("--models", nargs="+", default=["badnets_r18", "blend_r18"])
        part.add_argument("--images-per-class", type=int, default=50)
        part.add_argument("--only", nargs="+", help="names of settings")
        part.add_argument("--seed", type=int, default=0)
    part = tables.add_parser("latency")
    part.add_argument("model", type=Path)
    part.add_argument("hardened", type=Path)
    part.add_argument("--pairs", type=int, default=400)
    for part in tables.choices.values():
        part.add_argument("--name", help="stem of the result files")
    options = parser.parse_args(own)
    options.flags = flags
    options.name = options.name or f"nft-{options.table}"
    return options


def main(arguments: list[str] | None = None) -> int:
    """Make the table that the options name."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    command = shlex.join(["python", "-m", "benchmarks.nft", *arguments])
    return latency(options, command) if options.table == "latency" else measure_tables(options, command)


if __name__ == "__main__":
    sys.exit(main())
