# SPDX-License-Identifier: Apache-2.0
"""Commands that read files of strangers run in a process that can be ended.

A model may hold a loop of 1e12 rounds or double a tensor until memory is gone; ONNX and ONNX Runtime cannot be
stopped from inside. So the process forks before it reads anything: the child does the work, the parent watches its
clock and its memory, and ends it, and everything it started, where it goes beyond.
"""

from __future__ import annotations

import functools
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from patcher._cli.help import option
from patcher.child import memory_budget, resident_bytes
from patcher.errors import InputError

_SHORTEST_NAP, _LONGEST_NAP = 0.005, 0.1
_GIB = 2**30
_SHARE = 0.75


class _Watch:
    """Whether commands are watched; a program that calls `patcher._cli.main` itself is never forked."""

    on = False


def watch_commands() -> None:
    """From here on, commands with a time limit run in a child; for a process that does nothing else."""
    _Watch.on = hasattr(os, "fork") and Path("/proc/self/statm").exists()


def time_limit(seconds: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add ``--timeout`` to a command and hold it to that.

    Args:
        seconds: The default.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @option(
            "--timeout",
            section="Run",
            type=click.FloatRange(min=0, min_open=True),
            default=seconds,
            show_default=True,
            help="Seconds after which the command is ended (exit code 2).",
        )
        @functools.wraps(command)
        def wrapped(*args: Any, timeout: float, **kwargs: Any) -> Any:
            child = os.fork() if _Watch.on else 0
            if child:
                return _wait(child, timeout)
            if _Watch.on:
                os.setpgid(0, 0)
            return command(*args, **kwargs)

        return wrapped

    return decorate


def _wait(child: int, seconds: float) -> int:
    """The child's exit code.

    Raises:
        InputError: It took too long or too much memory, or crashed.
    """
    deadline, budget, nap = time.monotonic() + seconds, memory_budget(_SHARE), _SHORTEST_NAP
    with _ending(child):
        while True:
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                break
            if time.monotonic() > deadline:
                raise InputError(f"not finished after {seconds:g} s and ended; allow more with --timeout")
            if (used := resident_bytes(child)) > budget:
                raise InputError(f"ended at {used / _GIB:.1f} GiB of memory; {budget / _GIB:.1f} GiB are allowed here")
            time.sleep(nap)
            nap = min(2 * nap, _LONGEST_NAP)
    if os.WIFSIGNALED(status):
        raise InputError(f"the work ended by signal {os.WTERMSIG(status)}: the model or the data crashed a library")
    return os.waitstatus_to_exitcode(status)


@contextmanager
def _ending(child: int) -> Iterator[None]:
    """End the child and what it started when the parent stops waiting, for whatever reason."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        for end in (os.killpg, os.kill):
            try:
                end(child, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
