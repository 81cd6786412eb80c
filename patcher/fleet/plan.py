# SPDX-License-Identifier: Apache-2.0
"""From a model of the fleet to tasks, each with a key that says what its result depends on.

    ranking -> a family each -> judge ---.
               a source each -^          v
    harden, one a method (behind judge where the method takes a scan) -> verify

A key is the hash of kind, arguments with contents in place of paths, threads and versions. Keys of tasks that read
what others made hold the keys of those.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from patcher._version import __version__
from patcher.calibrate.scan.options import Options
from patcher.fleet.content import Contents
from patcher.fleet.description import Entry, options_of
from patcher.fleet.task import Content, Kind, Task, map_contents
from patcher.report.report import versions

_LAYOUT = 1  # of the files that tasks make; counts up when they change
_SCAN_FILES = ("scan", "triggers")


@dataclass(frozen=True)
class Plan:
    """The tasks of one model.

    Attributes:
        entry: The model.
        content: Its file.
        first: The ranking; what it finds says whether single sources are searched.
        families: One a family.
        judge: Makes the folder of the scan.
        methods: One a method.
        verify: The gate.
        keys: Of every task but those of single sources, by `Task.name`.
        threads: Of every task.
    """

    entry: Entry
    content: Content
    first: Task | None
    families: tuple[Task, ...]
    judge: Task | None
    methods: tuple[Task, ...]
    verify: Task | None
    keys: Mapping[str, str]
    threads: int

    @property
    def tasks(self) -> tuple[Task, ...]:
        """All that are known before any is done, in order."""
        return tuple(
            task for task in (self.first, *self.families, self.judge, *self.methods, self.verify) if task is not None
        )

    @property
    def products(self) -> tuple[Task, ...]:
        """Those whose files are results."""
        return tuple(task for task in (self.judge, *self.methods, self.verify) if task is not None)

    def needs(self, task: Task) -> tuple[Task, ...]:
        """The tasks that come before one, as far as they are known."""
        if task.kind in ("family", "source"):
            return (self.first,) if self.first else ()
        if task.kind == "judge":
            return tuple(item for item in (self.first, *self.families) if item is not None)
        if task.kind == "harden":
            return (self.judge,) if self.judge is not None and self.takes_scan(task) else ()
        return tuple(item for item in (self.judge, *self.methods) if item is not None) if task is self.verify else ()

    def takes_scan(self, task: Task) -> bool:
        """Whether a method reads what the scan of this fleet found: where it can, and no other was given."""
        given = any(name in self.entry.harden for name in _SCAN_FILES)
        return not given and "scan" in options_of(task.detail[0])

    def sources(self, alone: tuple[int, ...]) -> list[Task]:
        """Tasks of single sources, in the order in which their results are joined."""
        if self.first is None:
            return []
        pairs = [(family.detail[0], str(target)) for family in self.families for target in alone]
        return [Task(self.entry.name, "source", pair, self.first.arguments) for pair in pairs]

    def key(self, task: Task) -> str:
        """Of a task, those of single sources included."""
        return self.keys[task.name] if task.name in self.keys else _key(task, (), self.threads)


def plan(entry: Entry, contents: Contents, threads: int) -> Plan:
    """Cut a model of the fleet into tasks.

    Raises:
        InputError: A file cannot be read.
    """
    content = contents.of(entry.path, model=True)

    def located(values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: contents.of(value) if hasattr(value, "resolve") else value for name, value in values.items()}

    common = {"model": content, **located(entry.common), "preprocess": located(entry.common["preprocess"])}
    attack = {name: common.pop(name) for name in ("triggered", "target") if name in common}

    def task(kind: Kind, arguments: Mapping[str, Any], *detail: str) -> Task:
        return Task(entry.name, kind, detail, arguments)

    first, judge, verify = None, None, None
    families: tuple[Task, ...] = ()
    if "scan" in entry.do:
        scan = common | located(entry.scan)
        searched = Options(family=tuple(scan.get("family", ()))).families
        first, judge = task("ranking", scan), task("judge", scan)
        families = tuple(task("family", scan, name) for name in searched)
    harden = located(entry.harden)
    methods = tuple(
        task("harden", common | attack | _own(harden, method), method)
        for method in (entry.methods if "harden" in entry.do else ())
    )
    if "verify" in entry.do:
        verify = task("verify", common | attack | located(entry.verify))
    made = Plan(entry, content, first, families, judge, methods, verify, {}, threads)
    keys: dict[str, str] = {}
    for item in made.tasks:
        before = [keys[other.name] for other in made.needs(item) if other.kind in ("judge", "harden")]
        keys[item.name] = _key(item, before, threads)
    return Plan(entry, content, first, families, judge, methods, verify, keys, threads)


def _own(harden: Mapping[str, Any], method: str) -> dict[str, Any]:
    """The options that a method has."""
    known = {"bake", *options_of(method)}
    return {name: value for name, value in harden.items() if name in known}


def _key(task: Task, before: Any, threads: int) -> str:
    whole = {
        "layout": _LAYOUT,
        "task": [task.kind, *task.detail],
        "arguments": map_contents(task.arguments, lambda content: {"sha256": content.sha256}),
        "before": list(before),
        "threads": threads,
        "versions": {"patcher": __version__, **versions()},
    }
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
