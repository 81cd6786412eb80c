# SPDX-License-Identifier: Apache-2.0
"""A worker: one process of our own, watched from outside, that does one task after another.

A model may loop for ever, fill the memory or crash a library; none of that can be stopped from inside. So the process
is ended where its task takes too long or its memory grows too large, and started again for the next.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from patcher.child import resident_bytes, start_module
from patcher.fleet.task import Failure, Files, Limits, Outcome, Task

_NAP = 0.1
_GIB = 2**30
_LOG_BYTES = 20_000
_START_SECONDS = 600.0  # to import everything, on a machine that is busy
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Worker:
    """One process; started by the first task, and again after it was lost.

    Args:
        limits: Of each task.
        environment: Further environment variables.
    """

    def __init__(self, limits: Limits, environment: Mapping[str, str] | None = None) -> None:
        self._limits, self._environment = limits, dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the worker
        self._closed = False

    def run(self, task: Task, inputs: Files) -> Outcome:
        """Do a task.

        Args:
            task: With paths in place of contents.
            inputs: Files that it reads.
        """
        started, begin = time.perf_counter(), os.fstat(self._log.fileno()).st_size
        try:
            connection = self._ready()
            connection.send((task, inputs))
            outcome: Outcome = self._receive(connection, self._limits.seconds)
            return outcome
        except _LimitError as error:
            failure = Failure(str(error), log=self._written(begin))
        except (EOFError, OSError):
            failure = Failure(self._how_lost(), log=self._written(begin), lost=True)
        self._end()
        return Outcome(failure, time.perf_counter() - started)

    def close(self) -> None:
        """End the process, and what it started, at once; another task is not done."""
        self._closed = True
        self._end()
        self._log.close()

    @property
    def process_id(self) -> int | None:
        """Of the process, where there is one."""
        return self._process.pid if self._process is not None else None

    def _ready(self) -> Connection:
        """The pipe to a process that takes tasks."""
        if self._closed:
            raise EOFError
        if self._connection is not None:
            return self._connection
        ours, theirs = Pipe()
        threads = str(self._limits.threads)
        environment = {**dict.fromkeys(_THREAD_VARIABLES, threads), **self._environment}
        with theirs:
            handed = theirs.fileno()
            arguments = ("patcher.fleet.worker", str(handed), threads)
            self._process = start_module(*arguments, log=self._log, handed=handed, environment=environment)
        self._connection = ours
        self._receive(ours, _START_SECONDS)
        return ours

    def _receive(self, connection: Connection, seconds: float) -> Any:
        """The next message.

        Raises:
            _LimitError: It takes too long or too much memory.
            EOFError: The process is gone.
        """
        deadline = time.monotonic() + seconds
        while not connection.poll(_NAP):
            if time.monotonic() > deadline:
                raise _LimitError(f"not finished after {seconds:g} s and ended; allow more with timeout under [run]")
            used = resident_bytes(self._process.pid) if self._process is not None else 0
            if used > self._limits.memory:
                allowed = f"{self._limits.memory / _GIB:.1f} GiB are allowed (memory_gib under [run])"
                raise _LimitError(f"ended at {used / _GIB:.1f} GiB of memory; {allowed}")
        return connection.recv()

    def _how_lost(self) -> str:
        process = self._process
        if process is None:
            return "the process could not be started"
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
        code = process.returncode
        if code is not None and code < 0:
            return f"the process ended by signal {-code}: the model or the data crashed a library, or memory ran out"
        return f"the process ended with exit code {code}"

    def _end(self) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            for end in (os.killpg, os.kill):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    end(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = self._connection = None

    def _written(self, begin: int) -> str:
        """The end of what the process wrote since then."""
        if self._log.closed:
            return ""
        end = os.fstat(self._log.fileno()).st_size
        start = max(begin, end - _LOG_BYTES)
        return os.pread(self._log.fileno(), end - start, start).decode(errors="replace")


class _LimitError(Exception):
    """A task went beyond what it may use."""
