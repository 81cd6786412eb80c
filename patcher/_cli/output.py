# SPDX-License-Identifier: Apache-2.0
"""What a person sees: tables on stdout, progress on stderr (only on a terminal).

rich is imported where it draws: `--help` starts without it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from patcher.text import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; a pipe gets its full width."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left", title_style="bold")
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


def complain(outcome: str, reasons: Iterable[str]) -> None:
    """One line on stderr: why a command does not end with 0. Written under --quiet, too."""
    text = "; ".join(" ".join(printable(reason).split()) for reason in reasons)
    print(f"patcher: {outcome}: {text}" if text else f"patcher: {outcome}", file=sys.stderr)


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Yield a progress callback that draws a bar a task on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    tasks: dict[str, TaskID] = {}
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=quiet or not sys.stderr.isatty(),
    )

    def update(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bars.add_task(what, total=total)
        bars.update(tasks[what], completed=done, total=total)

    with bars:
        yield update
