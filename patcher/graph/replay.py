# SPDX-License-Identifier: Apache-2.0
"""The record of a run, and running it again on new values of the same shapes.

The record holds no host work: shapes, axes and constants stand in the calls as fixed arguments. It is
valid for the same input shapes, fetched tensors and rewritten tensors, and only where no fixed
argument was read from a value that may change (a `Call` knows).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from patcher.errors import InputError
from patcher.graph.execution import Call, Target, Value
from patcher.graph.host_values import to_tensor
from patcher.graph.plan import Plan

Rewrite = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Recorded:
    """One call of a record.

    Attributes:
        call: The kernel and its arguments.
        outputs: Name of each result that somebody wants, with its position.
        rewritten: Outputs to rewrite.
        freed: Tensors that nothing reads afterwards.
    """

    call: Call
    outputs: tuple[tuple[int, str], ...]
    rewritten: tuple[str, ...]
    freed: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Record:
    """A run that can be repeated.

    Attributes:
        items: Calls in order.
        host_values: Fetched values that depend on shapes only.
        replayable: Whether the calls' fixed arguments stay right.
    """

    items: tuple[Recorded, ...]
    host_values: Mapping[str, Value]
    replayable: bool


class Recorder:
    """Collects the calls of a run."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._items: list[Recorded] = []
        self._host_values: dict[str, Value] = {}
        self._replayable = True

    def add(self, call: Call, results: Mapping[str, Value], rewritten: tuple[str, ...], dying: tuple[str, ...]) -> None:
        """Take note of one call and its results."""
        self._replayable = self._replayable and call.replayable
        host = {name: value for name, value in results.items() if not isinstance(value, torch.Tensor)}
        self._host_values.update(host)
        if host and len(host) == len(results) and not rewritten:
            # Its results stand in other calls as fixed arguments; what dies with it is freed later.
            self._items.append(Recorded(call, (), (), dying))
            return
        outputs = tuple((index, name) for index, name in enumerate(call.step.outputs) if name)
        self._items.append(Recorded(call, outputs, rewritten, dying))

    def finish(self) -> Record:
        """The record without the host's calls."""
        items: list[Recorded] = []
        late: list[str] = []
        for item in self._items:
            freed = [*late, *(name for name in item.freed if name not in self._host_values or item.rewritten)]
            late = [] if item.outputs else freed
            if item.outputs:
                items.append(Recorded(item.call, item.outputs, item.rewritten, tuple(freed)))
        wanted = {name: value for name, value in self._host_values.items() if name in self._plan.wanted}
        return Record(tuple(items), wanted, self._replayable)


def apply_rewrite(rewrite: Rewrite, name: str, value: Value, target: Target) -> torch.Tensor:
    """Apply a rewrite function to a value.

    Raises:
        InputError: The function changed the shape.
    """
    before = value if isinstance(value, torch.Tensor) else to_tensor(value, target.device, target.dtype)
    after = rewrite(before)
    if after.shape != before.shape:
        raise InputError(f"rewrite of {name!r}: shape {list(before.shape)} expected, found {list(after.shape)}")
    return after


def replay(record: Record, environment: dict[str, Value], rewrite: Mapping[str, Rewrite], target: Target) -> None:
    """Run a record on new values; ``environment`` holds the inputs and receives the fetched tensors."""
    for item in record.items:
        results = item.call.run(environment)
        for index, name in item.outputs:
            environment[name] = results[index]
        for name in item.rewritten:
            environment[name] = apply_rewrite(rewrite[name], name, environment[name], target)
        for name in item.freed:
            environment.pop(name, None)
