# SPDX-License-Identifier: Apache-2.0
"""What a person sees: tables on stdout, progress on stderr (only on a terminal).

rich is imported where it draws: `--help` starts without it.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from patcher.progress import no_progress
from patcher.text import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID


_SECONDS_BETWEEN_LINES = 30


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, without a header where no column has a title; a pipe gets its full width."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left", title_style="bold", show_header=any(header))
    for index, name in enumerate(header):
        table.add_column(escape(name), justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(escape(printable(cell)) for cell in row))
    console().print(table)


def console() -> Console:
    """The console of stdout."""
    from rich.console import Console

    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120, highlight=False)


def say(text: str) -> None:
    """One line on stdout, as it is."""
    from rich.markup import escape

    console().print(escape(printable(text)), soft_wrap=True)


def conclude(verdict: str, page: Path | None = None) -> None:
    """The last lines of a command: its verdict, and the page that explains it."""
    say(f"verdict: {verdict}")
    if page is not None:
        say(f"report: {page}")


def complain(outcome: str, reasons: Iterable[str]) -> None:
    """One line on stderr: why a command does not end with 0. Written under --quiet, too."""
    own = (reason.removeprefix(f"{outcome}: ") for reason in reasons)
    text = "; ".join(" ".join(printable(reason).split()) for reason in own)
    print(f"patcher: {outcome}: {text}" if text else f"patcher: {outcome}", file=sys.stderr)


@contextmanager
def progress_bar(quiet: bool, *, rate: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """Yield a progress callback: bars with the time left on a terminal, else a line every half minute, on stderr.

    Args:
        quiet: Say nothing.
        rate: Say how many steps a minute are done, too.
    """
    if quiet:
        yield no_progress
    elif not sys.stderr.isatty():
        with ProgressLines(rate=rate) as lines:
            yield lines
    else:
        yield from _bars(rate)


def _bars(rate: bool) -> Iterator[Callable[[str, int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    tasks: dict[str, TaskID] = {}
    begun: dict[str, float] = {}
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *([TextColumn("{task.fields[rate]}")] if rate else []),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )

    def update(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what], begun[what] = bars.add_task(what, total=total, rate=""), time.monotonic()
        speed = _rate(done, time.monotonic() - begun[what])
        bars.update(tasks[what], completed=done, total=total, rate=speed)

    with bars:
        yield update


class ProgressLines:
    """Progress in a log: a line on stderr every half minute, with the time left where it can be told.

    Used as a context manager, it speaks up in steps that tell nothing for longer, too.

    Args:
        clock: Seconds, for tests.
        rate: Say how many steps a minute are done, too.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, rate: bool = False) -> None:
        self._clock, self._rate = clock, rate
        self._started = self._last = clock()
        self._begun: dict[str, float] = {}
        self._state: tuple[str, int, int] | None = None
        self._over, self._lock = threading.Event(), threading.Lock()

    def __enter__(self) -> ProgressLines:
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Take in that `done` of `total` steps of a task are done."""
        self._begun.setdefault(what, self._clock())
        self._state = (what, done, total)
        self.say()

    def say(self) -> None:
        """Print a line, if the last one is half a minute old."""
        with self._lock:
            now = self._clock()
            if now - self._last >= _SECONDS_BETWEEN_LINES:
                self._last = now
                print(f"patcher: {self._line(now)}", file=sys.stderr, flush=True)

    def _line(self, now: float) -> str:
        if self._state is None:
            return f"reading and measuring, {_duration(now - self._started)} so far"
        what, done, total = self._state
        spent = now - self._begun[what]
        if done >= total:
            return f"{printable(what)}: done; checking and measuring, {_duration(now - self._started)} so far"
        left = f", about {_duration(spent / done * (total - done))} left" if done and spent > 0 else ""
        speed = f", {_rate(done, spent)}" if self._rate and spent > 0 else ""
        return f"{printable(what)}: {done} of {total}{speed}{left}"

    def _watch(self) -> None:
        while not self._over.wait(_SECONDS_BETWEEN_LINES / 10):
            self.say()


def _rate(done: int, seconds: float) -> str:
    return f"{60 * done / seconds:.3g} a minute" if seconds > 0 else ""


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
