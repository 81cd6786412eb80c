# SPDX-License-Identifier: Apache-2.0
"""The fleet's scheduler against processes that only take time: an event queue in place of machines.

A task takes the time that such a task was recorded to take, a process that takes a task of another model than its last
reads model and images first, and the process that hands tasks out does one thing at a time.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from patcher.fleet.run import Run
from patcher.fleet.task import Failure, Files, Outcome, Task
from patcher.progress import no_progress

MODELS = 1000


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
    """Processes that only take time.

    Args:
        slots: How many.
        seconds: Of each task, by model and place.
        reading: Seconds to read model and images.
        handing: Seconds of the handing process for each task.
    """

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
