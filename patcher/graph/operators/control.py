# SPDX-License-Identifier: Apache-2.0
"""Control flow: the interpreter runs the subgraph again for each branch or step.

Subgraphs see the tensors around them. Gradients flow through; what a subgraph makes inside cannot be
fetched or rewritten by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from patcher.errors import UnsupportedGraphError
from patcher.graph.operators.registry import operator

if TYPE_CHECKING:
    from patcher.graph.steps import Block

Run = Callable[["Block", Sequence[Any]], list[Any]]


def _tensor(value: Any) -> Tensor:
    return torch.from_numpy(np.asarray(value)) if isinstance(value, np.ndarray) else value


def _truth(value: Any) -> bool:
    return bool(_tensor(value).reshape(()).item())


@operator("If", host=("condition",))
def branch(condition: Any, *, then_branch: Block, else_branch: Block, run: Run) -> tuple[Any, ...]:
    """One of two subgraphs."""
    while isinstance(condition, list):
        condition = condition[0]
    return tuple(run(then_branch if condition else else_branch, []))


@operator("Loop")
def loop(count: Tensor | None, condition: Tensor | None, *carried: Any, body: Block, run: Run) -> tuple[Any, ...]:
    """Repeat a subgraph ``count`` times or until its condition fails; collected outputs are stacked."""
    limit = None if count is None else int(count.reshape(()).item())
    going = True if condition is None else _truth(condition)
    values: list[Any] = list(carried)
    collected: list[list[Tensor]] = [[] for _ in range(len(body.outputs) - 1 - len(values))]
    step = 0
    while going and (limit is None or step < limit):
        counter = torch.tensor(step, dtype=torch.int64)
        results = run(body, [counter, torch.tensor(going), *values])
        going = _truth(results[0])
        values = results[1 : 1 + len(values)]
        for column, value in zip(collected, results[1 + len(values) :], strict=True):
            column.append(_tensor(value))
        step += 1
    if not step and collected:
        raise UnsupportedGraphError("a Loop that runs no step has collected outputs of unknown shape")
    return (*values, *(torch.stack(column) for column in collected))


@operator("Scan")
def scan(
    *inputs: Any,
    body: Block,
    num_scan_inputs: int,
    scan_input_axes: Sequence[int] | None = None,
    scan_input_directions: Sequence[int] | None = None,
    scan_output_axes: Sequence[int] | None = None,
    scan_output_directions: Sequence[int] | None = None,
    run: Run,
) -> tuple[Any, ...]:
    """Run a subgraph over slices of its scanned inputs, carrying a state; outputs are stacked."""
    states = list(inputs[: len(inputs) - num_scan_inputs])
    axes = scan_input_axes or [0] * num_scan_inputs
    directions = scan_input_directions or [0] * num_scan_inputs
    slices = []
    for value, axis, backward in zip(inputs[len(states) :], axes, directions, strict=True):
        parts = _tensor(value).unbind(axis)
        slices.append(parts[::-1] if backward else parts)
    made = len(body.outputs) - len(states)
    collected: list[list[Tensor]] = [[] for _ in range(made)]
    for parts in zip(*slices, strict=True):
        results = run(body, [*states, *parts])
        states = results[: len(states)]
        for column, value in zip(collected, results[len(states) :], strict=True):
            column.append(_tensor(value))
    if made and not collected[0]:
        raise UnsupportedGraphError("a Scan over nothing has outputs of unknown shape")
    out_axes, out_directions = scan_output_axes or [0] * made, scan_output_directions or [0] * made
    stacked = [
        torch.stack(column[::-1] if backward else column, axis)
        for column, axis, backward in zip(collected, out_axes, out_directions, strict=True)
    ]
    return (*states, *stacked)
