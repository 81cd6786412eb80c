# SPDX-License-Identifier: Apache-2.0
"""What the fleet costs and how far it scales.

    python -m benchmarks.fleet overhead [--models 2]     beside the commands in turn; one worker beside two
    python -m benchmarks.fleet cluster [--recorded FLEET.JSON]   8 to 512 workers, 1000 models, simulated

``overhead`` gives processor seconds beside those of the clock: on a machine that others use, too, only the first
compare. ``cluster`` runs the scheduler of the product against simulated processes (an event queue): a task takes the
time that such a task was recorded to take, a process that takes a task of another model than its last reads model and
images first, and the process that hands tasks out does one thing at a time. That one's time a task is measured here.
"""

from __future__ import annotations

import argparse
import heapq
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from benchmarks.record import markdown_table, run_child, write_result
from patcher.fleet.cache import Cache
from patcher.fleet.codec import pack
from patcher.fleet.run import Run
from patcher.fleet.state import ModelState
from patcher.fleet.task import Failure, Files, Outcome, Task
from patcher.progress import no_progress
from patcher.triggers.family import families

ROOT = Path(__file__).resolve().parents[1]
SAMPLE, CLEAN = ROOT / "samples" / "digits.onnx", ROOT / "samples" / "clean"
WORKERS = (8, 16, 32, 64, 128, 256, 512)
MODELS = 1000
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
PATCHER = [sys.executable, "-m", "patcher"]


@dataclass(frozen=True)
class Measured:
    """One way to scan some models: seconds of the clock and of the processor, and the largest process."""

    way: str
    seconds: float
    cpu_seconds: float
    peak_mib: float


def overhead(count: int) -> list[Measured]:
    """Copies of the sample, all families: the commands in turn, then fleets of one and two workers."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        names = [f"model-{number}" for number in range(count)]
        for name in names:
            (folder / f"{name}.onnx").write_bytes(SAMPLE.read_bytes())
        scan = ["scan", "--clean-dir", str(CLEAN), "-q"]
        runs = [run_child([*PATCHER, *scan, str(folder / f"{name}.onnx")], environment=ONE_THREAD) for name in names]
        rows = [
            Measured(
                "commands in turn",
                sum(run.seconds for run in runs),
                sum(run.cpu_seconds for run in runs),
                max(run.peak_mib for run in runs),
            )
        ]
        description = folder / "fleet.toml"
        description.write_text(f'[defaults]\nclean_dir = "{CLEAN}"\n[[models]]\nglob = "model-*.onnx"\n')
        for workers in (1, 2):
            flags = ["--workers", str(workers), "--results", str(folder / f"results-{workers}")]
            run = run_child([*PATCHER, "fleet", str(description), *flags], environment=ONE_THREAD)
            rows.append(Measured(f"fleet, {workers} workers", run.seconds, run.cpu_seconds, run.peak_mib))
        again = run_child([*PATCHER, "fleet", str(description), *flags], environment=ONE_THREAD)
        rows.append(Measured("the same again, from the cache", again.seconds, again.cpu_seconds, again.peak_mib))
        recorded = json.loads((folder / "results-1" / "fleet.json").read_text())["timings"]
    _write_overhead(rows, recorded, count)
    return rows


def _write_overhead(rows: Sequence[Measured], recorded: Mapping[str, Any], count: int) -> None:
    base, one, two, _ = rows
    cells = [[row.way, f"{row.seconds:.1f}", f"{row.cpu_seconds:.1f}", f"{row.peak_mib:.0f}"] for row in rows]
    table = markdown_table(("way", "seconds", "CPU seconds", "peak MiB of a process"), cells)
    table += (
        f"\n{count} copies of the sample, nine families, one thread a process. Overhead of the engine: "
        f"{100 * (one.cpu_seconds / base.cpu_seconds - 1):+.1f} % CPU seconds, "
        f"{100 * (one.seconds / base.seconds - 1):+.1f} % of the clock. Two workers beside one: "
        f"{one.seconds / two.seconds:.2f} times as fast by the clock, with {two.cpu_seconds / one.cpu_seconds:.2f} "
        "times the CPU seconds.\n"
    )
    rows_json = [*[vars(row) for row in rows], {"timings": dict(recorded)}]
    write_result("fleet-overhead", command=f"python -m benchmarks.fleet overhead --models {count}", rows=rows_json,
                 tables=table)  # fmt: skip


@dataclass
class SimulatedState:
    """A model whose tasks take recorded times: what `Run` asks of a `ModelState`, and nothing else."""

    name: str
    wanted: dict[str, Task]
    failure: Failure | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)

    def ready(self) -> Iterator[Task]:
        """Ranking, then families, then the judge."""
        stages = [[task for task in self.wanted.values() if task.kind == kind] for kind in ("ranking", "family")]
        first = next((stage for stage in stages if stage), list(self.wanted.values()))
        yield from (task for task in first if task.name not in self.running)

    @property
    def finished(self) -> bool:
        """Whether all is done."""
        return not self.wanted

    def inputs(self, task: Task) -> Files:
        """Nothing."""
        return {}

    def end(self, task: Task, result: object, seconds: float) -> None:
        """Take in a task."""
        self.running.discard(task.name)
        self.seconds[task.name] = seconds
        del self.wanted[task.name]


class SimulatedEngine:
    """So many processes that only take time: of each task, of reading a model, of handing a task out."""

    notes: tuple[str, ...] = ()

    def __init__(self, slots: int, seconds: Mapping[str, float], reading: float, handing: float) -> None:
        self.slots, self.now = slots, 0.0
        self._seconds, self._reading, self._handing = seconds, reading, handing
        self._events: list[tuple[float, int, float]] = []
        self._model: list[str] = [""] * slots
        self.working = self.reading = self.handed = 0.0

    def start(self, slot: int, task: Task, inputs: Files) -> None:
        """Begin a task; the handing process is busy with it first."""
        self.now += self._handing
        self.handed += self._handing
        read = self._reading if self._model[slot] not in ("", task.model) and task.kind != "ranking" else 0.0
        self._model[slot] = task.model
        work = self._seconds[task.name]
        self.working, self.reading = self.working + work, self.reading + read
        heapq.heappush(self._events, (self.now + read + work, slot, work))

    def wait(self) -> tuple[int, Outcome]:
        """The next task that ends, no earlier than the handing process is free."""
        end, slot, work = heapq.heappop(self._events)
        self.now = max(self.now, end)
        return slot, Outcome({}, work)

    def close(self) -> None:
        """Nothing runs."""


@dataclass(frozen=True)
class Simulated:
    """One size of cluster.

    Attributes:
        workers: How many.
        hours: Until the last model is done.
        speedup: Work over that time.
        efficiency: Share of the workers' time that was work.
        reading: Share that went into reading models and images again.
        handing: Share of the time in which the handing process was busy.
        idle: Share of the workers' time without a task.
    """

    workers: int
    hours: float
    speedup: float
    efficiency: float
    reading: float
    handing: float
    idle: float


def simulate(recorded: Mapping[str, float], workers: int, handing: float, *, models: int = MODELS) -> Simulated:
    """Run the scheduler against simulated processes.

    Args:
        recorded: Seconds of each task of some models, by ``model/kind/detail``.
        workers: How many processes.
        handing: Seconds of the handing process for each task.
        models: How many; each has the times of a recorded one, drawn with a fixed seed, times 0.5 to 2.
    """
    rng = np.random.default_rng(0)
    shapes: dict[str, dict[str, float]] = {}
    for name, seconds in recorded.items():
        model, _, place = name.partition("/")
        if place.split("/")[0] in ("ranking", "family", "judge"):
            shapes.setdefault(model, {})[place] = seconds
    states, times = [], {}
    for number in range(models):
        scale = 2.0 ** rng.uniform(-1, 1)
        shape = shapes[sorted(shapes)[int(rng.integers(len(shapes)))]]
        tasks = {}
        for place, seconds in shape.items():
            kind, *detail = place.split("/")
            task = Task(str(number), cast(Any, kind), tuple(detail), {})
            tasks[task.name], times[task.name] = task, scale * seconds
        states.append(SimulatedState(str(number), tasks))
    reading = float(np.median([shape["ranking"] for shape in shapes.values()]))
    engine = SimulatedEngine(workers, times, reading, handing)
    for _ in Run(cast(Any, states), engine, 1, no_progress).finished():
        pass
    whole = engine.now * workers
    return Simulated(
        workers,
        engine.now / 3600,
        engine.working / engine.now,
        engine.working / whole,
        engine.reading / whole,
        engine.handed / engine.now,
        1 - (engine.working + engine.reading) / whole,
    )


def handing_seconds(models: int = 20) -> float:
    """Seconds that handing out, taking in and keeping one task cost, measured with tasks that take no time."""
    from patcher.calibrate.scan.parts import Ranking
    from patcher.fleet.content import Contents
    from patcher.fleet.description import read_description
    from patcher.fleet.plan import plan

    ranking = pack(Ranking(tuple(range(10)), None, (), (), False, 10, "float32"))

    class Empty(SimulatedEngine):
        def wait(self) -> tuple[int, Outcome]:
            slot, outcome = super().wait()
            return slot, Outcome({"figures.npz": ranking}, outcome.seconds)

    with tempfile.TemporaryDirectory() as folder:
        table = {
            "results": folder,
            "defaults": {"clean_dir": str(CLEAN)},
            "models": [{"path": str(SAMPLE), "name": f"m{number}"} for number in range(models)],
        }
        description, contents = read_description(table), Contents()
        plans = [plan(entry, contents, 1) for entry in description.models]
        # Copies of one model have the same keys: each gets a cache of its own.
        states = [ModelState(item, Cache(Path(folder) / item.entry.name)) for item in plans]
        names = {task.name: 1.0 for item in plans for task in item.tasks}
        started = time.perf_counter()
        for _ in Run(states, Empty(8, names, 0.0, 0.0), 1, no_progress).finished():
            pass
        return (time.perf_counter() - started) / len(names)


def cluster(recorded: Path | None) -> list[Simulated]:
    """The table of cluster sizes."""
    if recorded is None:
        rows = json.loads((ROOT / "benchmarks" / "results" / "fleet-overhead.json").read_text())["rows"]
        seconds = rows[-1]["timings"]["task_s"]
    else:
        seconds = json.loads(recorded.read_text())["timings"]["task_s"]
    handing = handing_seconds()
    found = [simulate(seconds, workers, handing) for workers in WORKERS]
    cells = [
        [row.workers, f"{row.hours:.2f}", f"{row.speedup:.1f}",
         *(f"{100 * share:.1f} %" for share in (row.efficiency, row.reading, row.handing, row.idle))]
        for row in found
    ]  # fmt: skip
    header = ("workers", "hours", "speed-up", "at work", "reading again", "handing process busy", "idle")
    longest = max(seconds.values())
    tables = markdown_table(header, cells) + (
        f"\n{MODELS} models of {len(families())} families; times of {len(seconds)} recorded tasks, the longest "
        f"{longest:.1f} s, each model's times 0.5 to 2; "
        f"{1000 * handing:.2f} ms of the handing process a task, measured.\n"
    )
    given = f" --recorded {recorded.name}" if recorded else ""
    write_result("fleet-cluster", command=f"python -m benchmarks.fleet cluster{given}", rows=found, tables=tables)
    return found


def main() -> None:
    """Parse the command line and run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("overhead", "cluster"))
    parser.add_argument("--models", type=int, default=2)
    parser.add_argument("--recorded", type=Path)
    given = parser.parse_args()
    for row in overhead(given.models) if given.part == "overhead" else cluster(given.recorded):
        print(row)


if __name__ == "__main__":
    main()
