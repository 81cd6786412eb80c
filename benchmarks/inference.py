# SPDX-License-Identifier: Apache-2.0
"""What hardening costs at inference: the original beside its hardened forms, in ONNX Runtime on the CPU.

    python -m benchmarks.inference --shared ../shared

Every form runs once a round, in an order that turns from round to round, so that what else the machine
does falls on all alike. A ratio is that of the medians over the rounds, with a bootstrap interval over
rounds: `wall` of the time that passed, `cpu` of the processor time that the process used, which other
processes on the machine do not add to.

`nodes`, `folded`: UNIT's bounds per channel as nodes and folded. `tied`: folded, one bound a residual
stream. `nft`: a mask on every convolution. `bna`: a second pass that no timed picture takes.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.record import RESULTS, PairedTiming, markdown_table, run_child, summarize_pairs, write_result

MODELS = ("zoo-r18", "resnet18", "vgg11", "mobilenet_v2")
FORMS = ("nodes", "folded", "tied", "nft", "bna")
_SIDES = {"zoo-r18": 32, "resnet18": 32, "vgg11": 32, "mobilenet_v2": 64}
_WARM_UP = 2
_FEWEST = 7


@dataclass(frozen=True)
class Row:
    """One form of one model in one setting, against the original."""

    model: str
    side: int
    threads: int
    batch: int
    form: str
    timing: PairedTiming
    cpu: PairedTiming
    difference: float
    load: float


def rounds(
    sessions: Mapping[str, onnxruntime.InferenceSession], feed: NDArray[np.float32], seconds: float, most: int
) -> NDArray[np.float64]:
    """Seconds that passed and processor seconds, `(2, rounds, forms)`."""
    runs = [(session, {session.get_inputs()[0].name: feed}) for session in sessions.values()]
    elapsed: list[list[tuple[float, float]]] = []
    deadline = time.perf_counter() + seconds
    for number in range(-_WARM_UP, most):
        row = [(0.0, 0.0)] * len(runs)
        for step in range(len(runs)):
            index = (step + number) % len(runs)
            session, inputs = runs[index]
            start, used = time.perf_counter(), time.process_time()
            session.run(None, inputs)
            used = time.process_time() - used
            row[index] = (time.perf_counter() - start, used)
        if number >= 0:
            elapsed.append(row)
        if len(elapsed) >= _FEWEST and time.perf_counter() > deadline:
            break
    return np.array(elapsed).transpose(2, 0, 1)


def session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """A session as users have it: full optimisation."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    # Idle threads that spin would take a core from the next form.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def measure(name: str, options: argparse.Namespace) -> list[Row]:
    """Every setting of one model."""
    side = _SIDES[name]
    folder = options.forms_dir / name
    if not (folder / "original.onnx").exists():
        # In a process of its own: this one stays without torch and its threads.
        made = run_child(
            [sys.executable, "-m", "benchmarks.baked_forms", name, str(folder), str(side), str(options.shared)]
        )
        if made.code:
            raise SystemExit(f"{name} was not baked: {made.stderr.strip().splitlines()[-1:]}")
    forms = {form: folder / f"{form}.onnx" for form in ("original", *options.forms)}
    rows = []
    for threads in options.threads:
        sessions = {form: session(path, threads) for form, path in forms.items()}
        for batch in options.batches:
            feed = np.random.default_rng(0).random((batch, 3, side, side), np.float32)
            elapsed = rounds(sessions, feed, options.seconds, options.rounds)
            outputs = {form: item.run(None, {item.get_inputs()[0].name: feed})[0] for form, item in sessions.items()}
            for index, form in enumerate(sessions):
                if not index:
                    continue
                wanted = outputs["nodes" if form == "folded" else form]
                difference = float(np.abs(outputs[form] - wanted).max() / np.abs(wanted).max())
                timing, cpu = (summarize_pairs(part[:, [0, index]]) for part in elapsed)
                rows.append(Row(name, side, threads, batch, form, timing, cpu, difference, os.getloadavg()[0]))
                print(name, threads, batch, form, timing, cpu, file=sys.stderr)
    return rows


def table(rows: list[Row]) -> str:
    """One line a setting, one column a form: both ratios."""
    forms = list(dict.fromkeys(row.form for row in rows))
    lines = []
    for key in dict.fromkeys((row.model, row.side, row.threads, row.batch) for row in rows):
        here = {row.form: row for row in rows if (row.model, row.side, row.threads, row.batch) == key}
        base = next(iter(here.values()))
        cells = [f"{here[form].cpu} (wall {here[form].timing.ratio:.3f})" if form in here else "-" for form in forms]
        lines.append((key[0], key[2], key[3], f"{base.timing.base_ms:.2f} ms", base.timing.pairs, *cells))
    header = ("model", "threads", "batch", "original", "rounds", *forms)
    note = (
        "\nRatios of median processor time to the original [95 % interval], and of median wall time. "
        "Largest difference between "
        f"the folded and the node form: {max((row.difference for row in rows if row.form == 'folded'), default=0):.1e} "
        f"of the output scale. Load average of the machine while timing: {min(row.load for row in rows):.1f} to "
        f"{max(row.load for row in rows):.1f}; above the number of cores, other work was running beside.\n"
    )
    return markdown_table(header, lines) + note


def plot(rows: list[Row], path: Path) -> None:
    """The ratios with their intervals, one panel a model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    models = list(dict.fromkeys(row.model for row in rows))
    forms = list(dict.fromkeys(row.form for row in rows))
    figure, panels = pyplot.subplots(1, len(models), figsize=(4 * len(models), 3.6), sharey=True, squeeze=False)
    for panel, model in zip(panels[0], models, strict=True):
        settings = list(dict.fromkeys((row.threads, row.batch) for row in rows if row.model == model))
        for index, form in enumerate(forms):
            chosen = [row for row in rows if row.model == model and row.form == form]
            places = [settings.index((row.threads, row.batch)) + 0.14 * (index - len(forms) / 2) for row in chosen]
            ratios = np.array([row.cpu.ratio for row in chosen])
            ends = np.array([[row.cpu.low for row in chosen], [row.cpu.high for row in chosen]])
            errors = np.clip(np.stack([ratios - ends[0], ends[1] - ratios]), 0, None)
            panel.errorbar(places, ratios, errors, fmt="o", markersize=4, label=form)
        panel.axhline(1, color="grey", linewidth=0.8)
        panel.set_xticks(range(len(settings)), [f"{threads}t\nb{batch}" for threads, batch in settings])
        panel.set_title(model)
    panels[0][0].set_ylabel("processor time / original")
    panels[0][-1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else {"Software": None})


def parse(arguments: list[str]) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inference", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with zoo/")
    parser.add_argument("--forms-dir", type=Path, default=Path("build/inference"), help="where baked forms are kept")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=20, help="at most, a setting (7 rounds are always run)")
    parser.add_argument("--rounds", type=int, default=300, help="at most, a setting")
    parser.add_argument("--keep", action="store_true", help="keep other settings of an earlier result")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Time what the options name and write table, figures and plot."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    rows = [row for name in options.models for row in measure(name, options)]
    earlier = RESULTS / "inference.json"
    if options.keep and earlier.exists():
        new = {_setting(row) for row in rows}
        kept = [row for item in json.loads(earlier.read_text())["rows"] if _setting(row := _row(item)) not in new]
        rows = sorted([*kept, *rows], key=lambda row: (MODELS.index(row.model), row.threads, row.batch))
    command = shlex.join(["python", "-m", "benchmarks.inference", *arguments])
    RESULTS.mkdir(parents=True, exist_ok=True)
    plot(rows, RESULTS / "inference.png")
    text = table(rows) + "\n![ratios](inference.png)\n"
    write_result("inference", command=command, rows=[asdict(row) for row in rows], tables=text)
    print(text)
    return 0


def _setting(row: Row) -> tuple[str, int, int]:
    return row.model, row.threads, row.batch


def _row(item: dict[str, object]) -> Row:
    return Row(**{**item, "timing": PairedTiming(**item["timing"]), "cpu": PairedTiming(**item["cpu"])})  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main())
