# SPDX-License-Identifier: Apache-2.0
"""How far one model is: which of its tasks can begin, what they read, and when it is finished."""

from __future__ import annotations

import json
from collections.abc import Iterator

from patcher.calibrate.scan.parts import Ranking
from patcher.commands.compare import choose_best
from patcher.fleet.cache import Cache
from patcher.fleet.codec import unpack
from patcher.fleet.plan import Plan
from patcher.fleet.task import Failure, Files, Task, below, moved

_NOT_APPLICABLE = 3


class ModelState:
    """The tasks of one model and what is known of them.

    Args:
        plan: The tasks.
        cache: What was done before, and what is done now.
    """

    def __init__(self, plan: Plan, cache: Cache) -> None:
        self.plan, self._cache = plan, cache
        self.failure: Failure | None = None
        self.inapplicable: dict[str, str] = {}  # method to the reason
        self.seconds: dict[str, float] = {}
        self.attempts: dict[str, int] = {}
        self.running: set[str] = set()
        self._done: set[str] = set()
        self.wanted: dict[str, Task] = {}
        for task in plan.products:
            self._want(task)
        if plan.first is not None and plan.first.name in self._done:
            self._add_sources()
        self._drop_gate()
        self.cached = len(self._done)

    def _want(self, task: Task) -> None:
        """A task, and before it what it reads, unless it was done in an earlier run."""
        if task.name in self.wanted or task.name in self._done:
            return
        if self._cache.has(self.plan.key(task)):
            self._done.add(task.name)
            return
        for other in self.plan.needs(task):
            self._want(other)
        self.wanted[task.name] = task

    def _add_sources(self) -> None:
        judge = self.plan.judge
        if judge is None or judge.name not in self.wanted:
            return
        del self.wanted[judge.name]  # they come before it
        for task in self.plan.sources(self._ranking().alone):
            self._want(task)
        self.wanted[judge.name] = judge

    def ready(self) -> Iterator[Task]:
        """Tasks that can begin now, in order."""
        if self.failure is None:
            for task in self.wanted.values():
                if task.name not in self.running and all(name in self._done for name in self._before(task)):
                    yield task

    def _before(self, task: Task) -> list[str]:
        before = [item.name for item in self.plan.needs(task)]
        if task.kind == "judge":
            before += [item.name for item in self.wanted.values() if item.kind == "source"]
        return before

    @property
    def finished(self) -> bool:
        """Whether nothing of it runs and nothing can begin."""
        return not self.running and (self.failure is not None or not self.wanted)

    def end(self, task: Task, result: Files | Failure, seconds: float) -> None:
        """Take in how a task ended."""
        self.running.discard(task.name)
        self.seconds[task.name] = seconds
        if isinstance(result, Failure):
            if task.kind != "harden" or result.code != _NOT_APPLICABLE:
                self.failure = self.failure or result
                return
            self.inapplicable[task.detail[0]] = result.message
        else:
            self._cache.keep(self.plan.key(task), result)
        self._done.add(task.name)
        self.wanted.pop(task.name, None)
        if task is self.plan.first:
            self._add_sources()
        self._drop_gate()

    def _drop_gate(self) -> None:
        """Leave the gate out once it is known that no method made a model."""
        verify = self.plan.verify
        known = all(item.name in self._done for item in self.plan.methods)
        if verify is not None and verify.name in self.wanted and known and self.best() is None:
            del self.wanted[verify.name]

    def inputs(self, task: Task) -> Files:
        """The files that a task reads, below the places of the tasks that made them."""
        if task.kind in ("family", "source", "judge"):
            before = [item for item in self.plan.needs(task)]
            if task.kind == "judge":
                before += self.plan.sources(self._ranking().alone)
            return {name: content for item in before for name, content in moved(self.files(item), item.place).items()}
        judge = self.plan.judge
        scanned = judge is not None and (task.kind == "verify" or judge in self.plan.needs(task))
        found = moved(self.files(judge), "judge") if scanned and judge is not None else {}
        best = self.best() if task.kind == "verify" else None
        return found | moved(self.method_files(best), "harden") if best is not None else found

    def files(self, task: Task) -> Files:
        """What a task made; empty where it made nothing."""
        return self._cache.read(self.plan.key(task)) or {}

    def method_files(self, method: str) -> Files:
        """What a method made."""
        return next(self.files(task) for task in self.plan.methods if task.detail[0] == method)

    def reports(self) -> dict[str, dict[str, object]]:
        """``report.json`` of each method that could be applied."""
        found = {task.detail[0]: below(self.files(task), "report").get("report.json") for task in self.plan.methods}
        return {method: json.loads(content) for method, content in found.items() if content is not None}

    def best(self) -> str | None:
        """The method whose model is the result, once all are done."""
        reports = self.reports()
        return choose_best(reports)[0] if reports else None

    def _ranking(self) -> Ranking:
        first = self.plan.first
        if first is None:
            raise ValueError("a model that is scanned expected")
        (content,) = self.files(first).values()
        return unpack(Ranking, content)
