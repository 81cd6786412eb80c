# SPDX-License-Identifier: Apache-2.0
"""What NONE finds and repairs: the digits sample, and the zoo's models with their training images.

    python -m benchmarks.none audit       precision and recall of the suspects, and false suspects on clean images
    python -m benchmarks.none repair      accuracy, ASR and SIA before and after, and the time
    python -m benchmarks.none ablation    what each part does, on the sample

Every figure comes from the command line, each run in a process of its own. The `poisoned` flags of the
training sets are read here, for scoring, and nowhere else. What follows `--` goes to every run. Results:
`benchmarks/results/none-<table>.json|.md`.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import markdown_table, run_child, write_result

_ROOT = Path(__file__).resolve().parent.parent
_SAMPLES = _ROOT / "samples"
_ABLATION = {
    "defaults": (),
    "dropped, not relabelled (the paper)": ("--suspects", "drop"),
    "dropped, nothing reset": ("--suspects", "drop", "--no-reset"),
    "relabelled, nothing reset": ("--no-reset",),
    "ranking, every group confirmed (the authors' code)": ("--criterion", "ranking", "--margin", "0"),
    "ranking, groups judged": ("--criterion", "ranking"),
}


@dataclass(frozen=True)
class Case:
    """A model with the images it was trained on.

    Attributes:
        name: In tables.
        model: ONNX file.
        train: Training set.
        clean: Clean images for the accuracy condition.
        triggered: Triggered test images and the flags that say the target; empty for clean models.
    """

    name: str
    model: Path
    train: Path
    clean: Path
    triggered: tuple[str, ...] = ()

    @property
    def poisoned(self) -> set[int]:
        """Places of the poisoned images; for scoring only."""
        if self.train.suffix != ".npz":
            return set()
        with np.load(self.train) as file:
            return set(np.flatnonzero(file["poisoned"]).tolist()) if "poisoned" in file else set()


def cases(shared: Path) -> list[Case]:
    """The sample, the zoo's poisoned training set, and clean images with the clean model."""
    found = [
        Case(
            "digits",
            _SAMPLES / "digits.onnx",
            _SAMPLES / "train.npz",
            _SAMPLES / "clean",
            ("--triggered", str(_SAMPLES / "triggered.npz")),
        ),
        Case("digits, clean images", _SAMPLES / "digits.onnx", _SAMPLES / "clean", _SAMPLES / "test.npz"),
    ]
    zoo, images = shared / "zoo", shared / "cifar10"
    if zoo.is_dir():
        attack = ("--triggered", str(zoo / "badnets_r18.triggered.npz"), "--target", "9")
        trained = zoo / "badnets_r18.train10k.npz"
        found += [
            Case("badnets_r18", zoo / "badnets_r18.onnx", trained, images / "test.npz", attack),
            Case("clean_r18", zoo / "clean_r18.onnx", images / "clean", images / "test.npz"),
        ]
    return found


def audited(case: Case, flags: Sequence[str]) -> dict[str, Any]:
    """Run `patcher audit-data` and score its list."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["audit-data", str(case.model), "--train-dir", str(case.train), "--report-dir", folder, "-q", *flags]
        done = run_child([sys.executable, "-m", "patcher", *command])
        if done.code not in (0, 1):
            raise SystemExit(f"{case.name}: {done.stderr}")
        with (Path(folder) / "suspects.csv").open() as file:
            found = [row["image"] for row in csv.DictReader(file)]
        report = json.loads((Path(folder) / "audit.json").read_text())
    poisoned, total = case.poisoned, report["training_set"]["images"]
    hits = len({int(item) for item in found} & poisoned) if poisoned else 0
    return {
        "model": case.name,
        "images": total,
        "poisoned": len(poisoned),
        "suspected": len(found),
        "precision": hits / len(found) if found and poisoned else None,
        "recall": hits / len(poisoned) if poisoned else None,
        "suspected_share": len(found) / total,
        "seconds": done.seconds,
    }


def repaired(case: Case, name: str, flags: Sequence[str]) -> dict[str, Any]:
    """Run `patcher harden --method none` and read its report."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--method", "none", "--train-dir", str(case.train), "--clean-dir", str(case.clean)]
        output = ["-o", f"{folder}/out.onnx", "--report-dir", f"{folder}/report", "-q"]
        command = ["harden", str(case.model), *arguments, *case.triggered, *output, *flags]
        done = run_child([sys.executable, "-m", "patcher", *command])
        path = Path(folder) / "report" / "report.json"
        if not path.is_file():
            raise SystemExit(f"{case.name}, {name}: {done.stderr}")
        report = json.loads(path.read_text())
    row = {"model": case.name, "setting": name, "code": done.code, "seconds": done.seconds}
    row["suspected"] = report["method"]["suspects"]
    for side in ("before", "after"):
        row[f"{side}_acc"] = report[side]["held_out"]["value"]
        for part in ("ASR", "SIA"):
            row[f"{side}_{part.lower()}"] = report[side].get("attack", {}).get(part, {}).get("value")
    return row


def audit_table(rows: Sequence[dict[str, Any]]) -> str:
    """Precision and recall."""
    header = ("model", "images", "poisoned", "suspected", "precision", "recall", "time")
    counts = ("model", "images", "poisoned", "suspected")
    lines = [
        [*(row[part] for part in counts), _share(row["precision"]), _share(row["recall"]), f"{row['seconds']:.0f} s"]
        for row in rows
    ]
    return markdown_table(header, lines)


def repair_table(rows: Sequence[dict[str, Any]]) -> str:
    """Before and after."""
    header = ("model", "setting", "suspected", "ACC", "ASR", "SIA", "time", "exit code")

    def line(row: dict[str, Any]) -> list[object]:
        changes = [
            f"{_share(row[f'before_{part}'])} → {_share(row[f'after_{part}'])}" for part in ("acc", "asr", "sia")
        ]
        return [row["model"], row["setting"], row["suspected"], *changes, f"{row['seconds']:.0f} s", row["code"]]

    return markdown_table(header, [line(row) for row in rows])


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def main(arguments: Sequence[str]) -> int:
    """Run one table."""
    own, _, flags = (list(part) for part in _split(arguments))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=("audit", "repair", "ablation"))
    parser.add_argument("--models", nargs="*", help="only these cases")
    parser.add_argument("--shared", type=Path, default=_ROOT.parent / "shared")
    options = parser.parse_args(own)
    command = shlex.join(["python", "-m", "benchmarks.none", *arguments])
    chosen = [case for case in cases(options.shared) if not options.models or case.name in options.models]
    rows, text = [], ""
    settings = _ABLATION if options.table == "ablation" else {"defaults": ()}
    for case in chosen[:1] if options.table == "ablation" else chosen:
        for name, extra in settings.items():
            if options.table == "audit":
                rows.append(audited(case, flags))
            else:
                rows.append(repaired(case, name, (*extra, *flags)))
            text = audit_table(rows) if options.table == "audit" else repair_table(rows)
            # After each run, so that a cut benchmark leaves what it has.
            write_result(f"none-{options.table}", command=command, rows=rows, tables=text)
    print(text)
    return 0


def _split(arguments: Sequence[str]) -> tuple[Sequence[str], Sequence[str], Sequence[str]]:
    place = list(arguments).index("--") if "--" in arguments else len(arguments)
    return arguments[:place], arguments[place : place + 1], arguments[place + 1 :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
