# SPDX-License-Identifier: Apache-2.0
"""The engine of one machine: processes of our own, a thread each that waits for it."""

from __future__ import annotations

import os
import queue
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from patcher.child import memory_budget
from patcher.errors import InputError
from patcher.fleet.description import Running
from patcher.fleet.process import Worker
from patcher.fleet.task import Failure, Files, Limits, Outcome, Task

_SHARE = 0.75  # of the machine's memory, for all workers together
_GIB = 2**30


class LocalEngine:
    """Processes of this machine.

    Args:
        running: How many, their threads and limits.

    Raises:
        InputError: The system hands no pipes to processes.
    """

    def __init__(self, running: Running) -> None:
        if os.name != "posix":
            raise InputError("fleet: Linux or macOS expected for --engine local")
        devices = _devices()
        self.slots = running.workers or max(1, len(devices) or cores() // running.threads)
        self.notes: tuple[str, ...] = ()
        limits = limits_of(running, self.slots)
        self.workers = tuple(
            Worker(limits, {"CUDA_VISIBLE_DEVICES": devices[slot % len(devices)]} if devices else None)
            for slot in range(self.slots)
        )
        self._ended: queue.SimpleQueue[tuple[int, Outcome]] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(self.slots)

    def start(self, slot: int, task: Task, inputs: Files) -> None:
        """Begin a task in a free place."""
        self._threads.submit(self._run, slot, task.located(lambda content: content.path), inputs)

    def _run(self, slot: int, task: Task, inputs: Files) -> None:
        try:
            outcome = self.workers[slot].run(task, inputs)
        except Exception as error:  # whoever waits must hear of it
            outcome = Outcome(Failure(f"unexpected {type(error).__name__}: {error}"), 0.0)
        self._ended.put((slot, outcome))

    def wait(self) -> tuple[int, Outcome]:
        """Wait for the next task that ends."""
        return self._ended.get()

    def close(self) -> None:
        """End every process."""
        for worker in self.workers:
            worker.close()
        self._threads.shutdown(cancel_futures=True)


def limits_of(running: Running, workers: int) -> Limits:
    """The limits of each task, with so many workers on a machine."""
    memory = memory_budget(_SHARE) // workers if running.memory_gib is None else int(running.memory_gib * _GIB)
    return Limits(running.timeout, memory, running.threads)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _devices() -> list[str]:
    """CUDA devices of this machine, without importing what would use them."""
    found = [path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*")]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return sorted(found, key=int) if visible is None else [item for item in visible.split(",") if item.strip()]
