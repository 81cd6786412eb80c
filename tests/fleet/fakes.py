# SPDX-License-Identifier: Apache-2.0
"""An engine that does tasks at once, in this process, in any order and with any accident."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from patcher.fleet.execute import attempt
from patcher.fleet.task import Failure, Files, Outcome, Task

Accident = Callable[[Task], Failure | None]


class HereEngine:
    """Tasks end in an order of chance; `accident` says which of them fail."""

    def __init__(self, slots: int = 1, *, seed: int = 0, accident: Accident | None = None) -> None:
        self.slots, self.notes = slots, ()
        self.done: list[Task] = []
        self._running: dict[int, tuple[Task, Files]] = {}
        self._rng, self._accident = np.random.default_rng(seed), accident

    def start(self, slot: int, task: Task, inputs: Files) -> None:
        assert slot not in self._running
        self._running[slot] = (task, inputs)

    def wait(self) -> tuple[int, Outcome]:
        slot = int(self._rng.choice(sorted(self._running)))
        task, inputs = self._running.pop(slot)
        self.done.append(task)
        failure = self._accident(task) if self._accident else None
        if failure is not None:
            return slot, Outcome(failure, 0.0)
        return slot, attempt(task.located(lambda content: content.path), inputs)

    def close(self) -> None:
        self._running.clear()
