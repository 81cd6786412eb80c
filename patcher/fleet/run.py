# SPDX-License-Identifier: Apache-2.0
"""The order of tasks: which goes where, what is tried again, and which model is finished.

A free place gets, in this order: a task of the model it worked on last, whose images it still holds; one of a model
that no place works on; any other. So each model is read by few processes, and the last ones are shared by all.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from patcher.fleet.engine import Engine
from patcher.fleet.state import ModelState
from patcher.fleet.task import Failure, Outcome, Task
from patcher.progress import Progress

WHAT = "tasks"


class Run:
    """One run of a fleet.

    Args:
        states: The models, in order.
        engine: Where tasks run.
        attempts: How often a task is tried whose process is lost.
        progress: Told of every task that ends.
    """

    def __init__(self, states: Sequence[ModelState], engine: Engine, attempts: int, progress: Progress) -> None:
        self._states, self._engine, self._attempts, self._progress = states, engine, attempts, progress
        self._places: list[tuple[ModelState, Task] | None] = [None] * engine.slots
        self._last: list[ModelState | None] = [None] * engine.slots

    def finished(self) -> Iterator[ModelState]:
        """Models as they finish, each once."""
        left = list(self._states)
        while left:
            for state in [item for item in left if item.finished]:
                left.remove(state)
                yield state
            self._fill(left)
            if any(self._places):
                slot, outcome = self._engine.wait()
                self._take(slot, outcome)

    def _fill(self, states: Sequence[ModelState]) -> None:
        for slot in range(self._engine.slots):
            if self._places[slot] is None and (found := self._choose(slot, states)) is not None:
                state, task = found
                state.running.add(task.name)
                self._places[slot], self._last[slot] = found, state
                self._engine.start(slot, task, state.inputs(task))

    def _choose(self, slot: int, states: Sequence[ModelState]) -> tuple[ModelState, Task] | None:
        held = {id(item) for item in self._last}
        own = (state for state in states if state is self._last[slot])
        new = (state for state in states if id(state) not in held)
        for state in itertools.chain(own, new, states):
            if (task := next(state.ready(), None)) is not None:
                return state, task
        return None

    def _take(self, slot: int, outcome: Outcome) -> None:
        place = self._places[slot]
        if place is None:
            return
        self._places[slot] = None
        state, task = place
        result = outcome.result
        if isinstance(result, Failure) and result.lost:
            state.attempts[task.name] = state.attempts.get(task.name, 0) + 1
            if state.attempts[task.name] < self._attempts and state.failure is None:
                state.running.discard(task.name)
                return
        state.end(task, result, outcome.seconds)
        done = sum(len(item.seconds) for item in self._states)
        total = done + sum(len(item.wanted) for item in self._states if item.failure is None)
        self._progress(WHAT, done, total)
