# SPDX-License-Identifier: Apache-2.0
"""The engine of a cluster: Ray places actors, each of which holds one watched process of its node.

An actor does no work itself: what a model does to its process, it does to that process alone. Models and images go
into the object store once and are unpacked once a node. A node that is lost takes its actors with it; new ones are
asked for, wherever there is room.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from patcher.errors import InputError
from patcher.fleet.content import Store, read_files
from patcher.fleet.description import Running
from patcher.fleet.local import cores, limits_of
from patcher.fleet.process import Worker
from patcher.fleet.task import Content, Failure, Files, Limits, Outcome, Task, contents_of

_ANSWER_SECONDS = 5.0
_CLOSE_SECONDS = 10.0


class RayEngine:
    """Actors on a Ray cluster.

    Args:
        running: How many, their threads and limits.
        address: ``auto``, ``host:port`` or ``ray://host:port``; ``None`` starts a cluster on this machine.

    Raises:
        InputError: Ray is not installed, or nobody answers at the address.
    """

    def __init__(self, running: Running, address: str | None) -> None:
        self._ray, dashboard = _connect(running, address)
        found = self._ray.cluster_resources()
        gpus = int(found.get("GPU", 0))
        room = gpus or int(found.get("CPU", 1)) // running.threads
        self.slots = max(1, min(running.workers or room, room))
        self.notes = (
            f"ray: {self.slots} workers on {len([node for node in self._ray.nodes() if node['Alive']])} nodes",
            *([f"ray dashboard: http://{dashboard}"] if dashboard else []),
        )
        limits = limits_of(running, max(1, cores() // running.threads))
        remote = self._ray.remote(num_cpus=running.threads, num_gpus=1 if gpus else 0, max_restarts=0)(Node)
        place = f"patcher-fleet-{uuid.uuid4().hex}"
        self._new: Callable[[], Any] = lambda: remote.remote(limits, place)
        self.actors = [self._new() for _ in range(self.slots)]
        self._stored: dict[str, Any] = {}
        self._running: dict[Any, int] = {}
        self._started: dict[int, float] = {}

    def start(self, slot: int, task: Task, inputs: Files) -> None:
        """Begin a task in a free place."""
        references = {}
        for content in contents_of(task.arguments):
            if content.sha256 not in self._stored:
                self._stored[content.sha256] = self._ray.put(read_files(Path(content.root), content.files))
            references[content.sha256] = self._stored[content.sha256]
        self._started[slot] = time.perf_counter()
        # References within a mapping are not fetched by Ray, but by the actor and only where it lacks the content.
        self._running[self.actors[slot].run.remote(task, inputs, references)] = slot

    def wait(self) -> tuple[int, Outcome]:
        """Wait for the next task that ends."""
        (ended,), _ = self._ray.wait(list(self._running), num_returns=1)
        slot = self._running.pop(ended)
        try:
            return slot, self._ray.get(ended)
        except self._ray.exceptions.RayActorError as error:
            self.actors[slot] = self._new()
            reason = " ".join(str(error).split())[:300]
            failure = Failure(f"the node or its Ray process was lost: {reason}", lost=True)
        except self._ray.exceptions.RayError as error:
            failure = Failure(f"Ray: {' '.join(str(error).split())[:300]}", log=str(error))
        return slot, Outcome(failure, time.perf_counter() - self._started[slot])

    def close(self) -> None:
        """End every process and leave the cluster."""
        idle = [actor for slot, actor in enumerate(self.actors) if slot not in self._running.values()]
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.wait([actor.close.remote() for actor in idle], num_returns=len(idle), timeout=_CLOSE_SECONDS)
        for actor in self.actors:
            self._ray.kill(actor)
        self._ray.shutdown()


class Node:
    """What runs as an actor: one watched process and the contents of its node.

    Args:
        limits: Of each task.
        place: Name of the folder for contents, one for all actors of a node.
    """

    def __init__(self, limits: Limits, place: str) -> None:
        self._store = Store(Path(tempfile.gettempdir()) / place)
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        self._worker = Worker(limits, {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})

    def run(self, task: Task, inputs: Files, references: dict[str, Any]) -> Outcome:
        """Do a task.

        Args:
            task: With contents.
            inputs: Files that it reads.
            references: Of each content in the object store, by hash.
        """

        def locate(content: Content) -> str:
            if not self._store.has(content):
                self._store.add(content, _ray().get(references[content.sha256]))
            return self._store.path(content)

        try:
            return self._worker.run(task.located(locate), inputs)
        except InputError as error:
            return Outcome(Failure(str(error)), 0.0)

    def close(self) -> None:
        """End the process; remove what was unpacked."""
        self._worker.close()
        self._store.clear()

    def process_id(self) -> int | None:
        """Of the watched process, for tests."""
        return self._worker.process_id


def _ray() -> Any:
    """The package; without types, so that this file is checked alike with and without it.

    Raises:
        InputError: It is not installed.
    """
    # Without it Ray warns of a change of its own in how it hides GPUs from tasks that ask for none.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # A cluster that is started here tells nobody that it was.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise InputError("--engine ray: Ray is not installed; pip install 'onnx-patcher[ray]'") from error


def _connect(running: Running, address: str | None) -> tuple[Any, str]:
    """Ray, connected, and where its dashboard is, or nothing.

    Raises:
        InputError: It is not installed, or nobody answers.
    """
    ray = _ray()
    if address not in (None, "auto"):
        _check_answer(str(address))
    # "local" starts one even where another runs on this machine.
    own = {"address": "local", "num_cpus": (running.workers or max(1, cores() // running.threads)) * running.threads}
    try:
        context = ray.init(
            **(own if address is None else {"address": address}), logging_level="ERROR", log_to_driver=False
        )
    except Exception as error:  # Ray raises no class of its own where a node does not start in time
        reason = " ".join(str(error).split())[:150]
        where = f"--address {address}: no cluster answers" if address else "--engine ray: no cluster starts here"
        raise InputError(f"{where} ({reason})") from error
    return ray, str(context.dashboard_url or "")


def _check_answer(address: str) -> None:
    """Refuse an address at once at which Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise InputError(f"--address: auto or HOST:PORT expected, found {address!r}")
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"--address {address}: nobody answers ({error})") from error
