# SPDX-License-Identifier: Apache-2.0
"""The order of tasks: which goes where, what is tried again, and which model is finished.

A free place gets, in this order: a task of the model it worked on last, whose images it still holds; one of a model
that was not begun; any other. So each model is read by few processes, and the last ones are shared by all.
"""

from __future__ import annotations

from collections import deque
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
        self._engine, self._attempts, self._progress = engine, attempts, progress
        self._left = {id(state): state for state in states}
        self._new = deque(states)
        self._free = list(reversed(range(engine.slots)))
        self._busy: dict[int, tuple[ModelState, Task]] = {}
        self._last: dict[int, ModelState] = {}
        self._done, self._total = 0, sum(len(state.wanted) for state in states)

    def finished(self) -> Iterator[ModelState]:
        """Models as they finish, each once."""
        for state in list(self._left.values()):
            if state.finished:
                yield self._left.pop(id(state))
        self._fill()
        while self._busy:
            state = self._take(*self._engine.wait())
            if state.finished and id(state) in self._left:
                yield self._left.pop(id(state))
            self._fill()

    def _fill(self) -> None:
        while self._free and (found := self._choose(self._free[-1])) is not None:
            slot, (state, task) = self._free.pop(), found
            state.running.add(task.name)
            self._busy[slot], self._last[slot] = found, state
            self._engine.start(slot, task, state.inputs(task))

    def _choose(self, slot: int) -> tuple[ModelState, Task] | None:
        """A task for a free place; where there is none for one, there is none for the others."""
        own = self._last.get(slot)
        if own is not None and id(own) in self._left and (task := next(own.ready(), None)) is not None:
            return own, task
        while self._new:
            state = self._new.popleft()
            if (task := next(state.ready(), None)) is not None:
                return state, task
        for state in self._left.values():
            if (task := next(state.ready(), None)) is not None:
                return state, task
        return None

    def _take(self, slot: int, outcome: Outcome) -> ModelState:
        """The model whose task ended."""
        state, task = self._busy.pop(slot)
        self._free.append(slot)
        result = outcome.result
        if isinstance(result, Failure) and result.lost and state.failure is None:
            state.attempts[task.name] = state.attempts.get(task.name, 0) + 1
            if state.attempts[task.name] < self._attempts:
                state.running.discard(task.name)
                return state
        before = self._share(state)
        state.end(task, result, outcome.seconds)
        self._done += 1
        # A ranking may bring further tasks; a failure takes those that are left.
        self._total += self._share(state) - before
        self._progress(WHAT, self._done, self._total)
        return state

    @staticmethod
    def _share(state: ModelState) -> int:
        """Of a model in the number of tasks: those done and those to do."""
        return len(state.seconds) + (len(state.wanted) if state.failure is None else 0)
