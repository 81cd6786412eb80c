# SPDX-License-Identifier: Apache-2.0
"""Real processes: one that is killed, one that takes too long, one that grows too large."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import patcher
from patcher.fleet.content import Contents
from patcher.fleet.description import Running, read_description
from patcher.fleet.local import LocalEngine
from patcher.fleet.plan import plan
from patcher.fleet.process import Worker
from patcher.fleet.task import Failure, Limits, Task
from tests.fleet.fakes import HereEngine
from tests.fleet.test_fleet import files_of

GIB = 2**30


@pytest.fixture
def ranking(table: dict[str, Any]) -> Task:
    """The first task of the first model."""
    (first, *_) = plan(read_description(table).models[0], Contents(), 1).tasks
    return first.located(lambda content: content.path)


def test_a_worker_killed_in_the_middle_changes_nothing(table: dict[str, Any], tmp_path: Path) -> None:
    alone = [item for item in patcher.fleet(table, engine=HereEngine(), results=tmp_path / "alone")]
    engine = LocalEngine(Running(workers=2))
    killed = threading.Event()

    def kill(what: str, done: int, total: int) -> None:
        for worker in engine.workers:
            if not killed.is_set() and worker.process_id is not None:
                os.kill(worker.process_id, signal.SIGKILL)
                killed.set()

    try:
        found = list(patcher.fleet(table, engine=engine, results=tmp_path / "killed", progress=kill))
    finally:
        engine.close()
    assert killed.is_set()
    assert {item.name: item.verdict for item in found} == {item.name: item.verdict for item in alone}
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "alone")


def test_a_task_ends_at_its_limits_and_the_next_is_done(ranking: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patcher.fleet.process._NAP", 0.001)
    worker = Worker(Limits(seconds=600, memory=GIB // 1024, threads=1))
    try:
        large = worker.run(ranking, {}).result
        assert isinstance(large, Failure)
        assert "GiB of memory" in large.message
        assert not large.lost
        worker._limits = Limits(seconds=0.0, memory=64 * GIB, threads=1)
        slow = worker.run(ranking, {}).result
        assert isinstance(slow, Failure)
        assert "not finished after 0 s" in slow.message
        worker._limits = Limits(seconds=600, memory=64 * GIB, threads=1)
        assert not isinstance(worker.run(ranking, {}).result, Failure)
    finally:
        worker.close()


def test_a_killed_process_is_a_loss_with_its_log(ranking: Task) -> None:
    worker = Worker(Limits(seconds=600, memory=64 * GIB, threads=1))

    def kill() -> None:
        while worker.process_id is None:
            time.sleep(0.01)
        os.kill(worker.process_id, signal.SIGSEGV)

    threading.Thread(target=kill).start()
    try:
        lost = worker.run(ranking, {}).result
    finally:
        worker.close()
    assert isinstance(lost, Failure)
    assert lost.lost
    assert "signal 11" in lost.message
