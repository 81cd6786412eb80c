# SPDX-License-Identifier: Apache-2.0
"""What hands tasks to processes: one small protocol, so that the order of tasks is decided in one place."""

from __future__ import annotations

from typing import Protocol

from patcher.fleet.task import Files, Outcome, Task


class Engine(Protocol):
    """Places for tasks; each holds one at a time, which bounds the tasks in flight.

    Attributes:
        slots: How many.
        notes: Lines for the user, such as where a dashboard is.
    """

    slots: int
    notes: tuple[str, ...]

    def start(self, slot: int, task: Task, inputs: Files) -> None:
        """Begin a task in a free place."""

    def wait(self) -> tuple[int, Outcome]:
        """Wait for the next task that ends: its place, and how."""

    def close(self) -> None:
        """End every process, whatever it does."""
