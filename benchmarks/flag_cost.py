# SPDX-License-Identifier: Apache-2.0
"""What a run-time flag costs on clean traffic: each form beside the plain network, in turns, one thread.

    python -m benchmarks.flag_cost FOLDER --nets badnets_r18 ... [--kept build/flag]

FOLDER holds the networks; `--kept` is where `benchmarks.flag` left their reports, whose patch is baked here in every
form. Batches of 64 clean test images; a ratio is that of medians over the rounds, of processor time and of the time
that passed, with a bootstrap interval over rounds (`benchmarks.inference`). File: bytes of all files of the form.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.attacks import Row
from benchmarks.flag import images_of
from benchmarks.inference import rounds, session
from benchmarks.record import RESULTS, markdown_table, summarize_pairs, write_result
from patcher.export import apply_guard, apply_patch
from patcher.model.file import serialize
from patcher.model.model import read_model
from patcher.patch import BranchForm, Flag, read_patch
from patcher.two_files import SCORE_OUTPUT, TwoFileSession

FORMS: tuple[BranchForm, ...] = ("if", "where", "two-files")
_BATCH = 64


def measure(name: str, options: argparse.Namespace) -> list[Row]:
    """Every form of one network."""
    source = options.folder / f"{name}.onnx"
    model, patch = read_model(source), read_patch(options.kept / name / "patch.safetensors")
    (flag,) = patch.corrections
    assert isinstance(flag, Flag)
    feed = images_of(options.test)[0][:_BATCH]
    sessions: dict[str, Any] = {"plain": session(source, 1)}
    sizes = {"plain": source.stat().st_size}
    with tempfile.TemporaryDirectory() as folder:
        for form in FORMS:
            other = replace(patch, corrections=(replace(flag, form=form),))
            guard = apply_guard(model, other)
            paths = []
            for number, proto in enumerate((apply_patch(model, other), guard)):
                if proto is not None:
                    paths.append(Path(folder) / f"{form}{number}.onnx")
                    paths[-1].write_bytes(serialize(proto))
            loaded = [session(path, 1) for path in paths]
            sessions[form] = TwoFileSession(*loaded) if len(loaded) > 1 else loaded[0]
            sizes[form] = sum(path.stat().st_size for path in paths)
    elapsed = rounds(sessions, feed, options.seconds, options.rounds)
    (scores,) = sessions["where"].run([SCORE_OUTPUT], {model.input.name: feed})
    second = int((scores > flag.tails[0, 0] * flag.gate + flag.tails[0, 1]).sum())
    rows = []
    for index, form in enumerate(FORMS, start=1):
        wall, cpu = (summarize_pairs(part[:, [0, index]]) for part in elapsed)
        row = {"name": name, "form": form, "rows_asked": second, "rounds": cpu.pairs, "base_ms": cpu.base_ms}
        rows.append(row | {"cpu": str(cpu), "wall": wall.ratio, "file": sizes[form] / sizes["plain"]})
    return rows


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    header = ("network", "form", "rows of 64 in the second view", "rounds", "processor time", "wall", "file")
    lines = [
        (
            row["name"],
            row["form"],
            _BATCH if row["form"] == "where" else row["rows_asked"],
            row["rounds"],
            row["cpu"],
            f"{row['wall']:.3f}",
            f"{row['file']:.3f}",
        )
        for row in rows
    ]
    return markdown_table(header, lines)


def main(arguments: list[str] | None = None) -> int:
    """Time what the options name and write the table."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flag_cost", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder with the networks")
    parser.add_argument("--nets", nargs="+", required=True, help="names")
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with cifar10/")
    parser.add_argument("--kept", type=Path, default=Path("build/flag"), help="folder with the reports of the flags")
    parser.add_argument("--seconds", type=float, default=20, help="at most, a network (7 rounds are always run)")
    parser.add_argument("--rounds", type=int, default=100, help="at most, a network")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    options = parser.parse_args(arguments)
    options.test = options.shared / "cifar10" / "test.npz"
    rows = [row for name in options.nets for row in measure(name, options)]
    command = shlex.join(["python", "-m", "benchmarks.flag_cost", *arguments])
    write_result("flag-cost", command=command, rows=rows, tables=table(rows), folder=options.results)
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
