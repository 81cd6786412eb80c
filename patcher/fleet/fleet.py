# SPDX-License-Identifier: Apache-2.0
"""A fleet, from its description to an index of results; ``patcher.fleet(...)`` is `fleet`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from patcher.errors import InputError
from patcher.files import Source
from patcher.fleet.cache import Cache
from patcher.fleet.content import Contents
from patcher.fleet.description import Description, Running, read_description
from patcher.fleet.engine import Engine
from patcher.fleet.plan import plan
from patcher.fleet.results import ModelResult, finish, worst
from patcher.fleet.run import Run
from patcher.fleet.state import ModelState
from patcher.progress import Progress, no_progress
from patcher.report.fleet.files import write_fleet
from patcher.report.report import Report, Verdict

ENGINES = ("local", "ray")


def fleet(
    description: Source | Mapping[str, Any] | Description,
    *,
    engine: str | Engine = "local",
    address: str | None = None,
    force: bool = False,
    results: Source | None = None,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
    **running: Any,
) -> Iterator[ModelResult]:
    """Scan, harden and verify many models; results come as they are ready, in no fixed order.

    Everything is checked before the first task, when this is called. The index (``fleet.json``, ``fleet.html``,
    ``junit.xml``) is written after the last; a caller that stops earlier ends the work and has the folders of what
    was finished.

    Args:
        description: ``fleet.toml``, or what it holds; see `patcher.fleet.description`.
        engine: ``local``, ``ray``, or an engine of the caller's, which the caller closes.
        address: Of a Ray cluster: ``auto``, or ``host:port``; ``None`` starts one on this machine.
        force: Do what an earlier run did again.
        results: Folder of the results, in place of that of the description.
        progress: Told of every task that ends.
        note: Told of what the engine says, such as where its dashboard is.
        running: Fields of `Running`, in place of those of the description.

    Returns:
        One result a model.

    Raises:
        InputError: The description, a file in it, the engine or its address cannot be used.
    """
    if not isinstance(description, Description):
        description = read_description(description)
    if unknown := sorted(set(running) - set(Running.__dataclass_fields__)):
        raise InputError(f"fleet: unknown options {', '.join(unknown)}")
    given = {name: value for name, value in running.items() if value is not None}
    description = replace(description, running=replace(description.running, **given))
    if results is not None:
        own = description.cache == description.results / ".cache"
        place = Path(results) / ".cache" if own else description.cache
        description = replace(description, results=Path(results), cache=place)
    contents, threads = Contents(), description.running.threads
    plans = [plan(entry, contents, threads) for entry in description.models]
    cache = Cache(description.cache, ignored=force)
    states = [ModelState(item, cache) for item in plans]
    chosen = _engine(engine, address, description.running) if isinstance(engine, str) else engine
    if note is not None:
        for line in chosen.notes:
            note(line)
    return _results(description, states, chosen, engine, progress or no_progress)


def _results(
    description: Description,
    states: list[ModelState],
    engine: Engine,
    given: str | Engine,
    progress: Progress,
) -> Iterator[ModelResult]:
    found: dict[str, ModelResult] = {}
    try:
        for state in Run(states, engine, description.running.attempts, progress).finished():
            result = finish(state, description.results)
            found[result.name] = result
            yield result
    finally:
        if given is not engine:
            engine.close()
    ordered = [found[entry.name] for entry in description.models]
    write_fleet(fleet_report(ordered), description.results)


def fleet_report(results: list[ModelResult]) -> Report:
    """The index of a fleet: ``fleet.json``; all but ``timings`` is the same for any engine and number of workers."""
    code = worst([result.code for result in results])
    verdicts: dict[int, Verdict] = {0: "pass", 1: "fail", 2: "inconclusive", 3: "not applicable"}
    reasons = tuple(f"{result.name}: {result.error or result.verdict}" for result in results if result.code)
    counts: dict[str, int] = {}
    for result in results:
        counts[result.verdict] = counts.get(result.verdict, 0) + 1
    sections = {
        "models": [dict(result.entry) for result in results],
        "counts": dict(sorted(counts.items())),
    }
    seconds = {name: round(value, 3) for result in results for name, value in sorted(result.seconds.items())}
    return Report("fleet", verdicts[code], reasons, sections, {"task_s": seconds})


def _engine(name: str, address: str | None, running: Running) -> Engine:
    """Start an engine.

    Raises:
        InputError: There is none of that name, or it cannot be started.
    """
    if name not in ENGINES:
        raise InputError(f"--engine: {' or '.join(ENGINES)} expected, found {name!r}")
    if name == "ray":
        from patcher.fleet.ray import RayEngine

        return RayEngine(running, address)
    if address is not None:
        raise InputError(f"--address: belongs to --engine ray, found --engine {name}")
    from patcher.fleet.local import LocalEngine

    return LocalEngine(running)
