# SPDX-License-Identifier: Apache-2.0
"""What has to be computed for the tensors asked for, in which order, and when each value dies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from patcher.graph.fusion import Fused
from patcher.graph.preparation import depends_on
from patcher.graph.steps import Step


@dataclass(frozen=True, eq=False)
class Plan:
    """What one combination of fetched and changed tensors needs.

    Attributes:
        constant_steps: Steps whose results never change, in order.
        steps: Steps to run, in order, each with the tensors that nothing reads after it.
        fixed: Names of the tensors that never change under this plan.
        wanted: Names of the fetched tensors.
    """

    constant_steps: tuple[Step, ...]
    steps: tuple[tuple[Step, tuple[str, ...]], ...]
    fixed: frozenset[str]
    wanted: tuple[str, ...]


def make_plan(
    steps: Sequence[Step],
    constants: Iterable[str],
    *,
    wanted: tuple[str, ...],
    changed: frozenset[str],
    fused: Sequence[Fused] = (),
) -> Plan:
    """Choose the steps that ``wanted`` needs.

    Args:
        steps: All nodes of the graph, in order.
        constants: Tensors that depend on initializers alone.
        wanted: Tensors to fetch.
        changed: Tensors given from outside or rewritten; whatever follows from them is not fixed.
        fused: Steps that may stand for several, where nobody wants or changes a tensor inside.
    """
    hidden = [item for item in fused if item.inner.isdisjoint(wanted) and item.inner.isdisjoint(changed)]
    standing = {item.step.outputs: item.step for item in hidden}
    steps = [standing.get(step.outputs, step) for step in steps]
    producers = {name: step for step in steps for name in step.outputs if name}
    fixed = frozenset(set(constants) - depends_on(steps, changed))
    needed = _needed(producers, wanted, fixed)
    running = [step for step in steps if step in needed]
    used = [name for step in running for name in step.reads if name in fixed]
    folded = _needed(producers, [*used, *(name for name in wanted if name in fixed)], frozenset())
    return Plan(
        constant_steps=tuple(step for step in steps if step in folded),
        steps=tuple(zip(running, _dying(running, wanted, fixed), strict=True)),
        fixed=fixed,
        wanted=wanted,
    )


def constant_names(steps: Sequence[Step], initializers: Mapping[str, torch.Tensor]) -> set[str]:
    """Initializers and everything computed from them alone."""
    constant = set(initializers)
    for step in steps:
        if constant.issuperset(step.reads):
            constant.update(name for name in step.outputs if name)
    return constant


def _needed(producers: Mapping[str, Step], names: Sequence[str], fixed: frozenset[str]) -> set[Step]:
    """The steps that make ``names``, and the steps those depend on, without the fixed tensors'."""
    needed: set[Step] = set()
    pending = list(names)
    while pending:
        name = pending.pop()
        step = producers.get(name)
        if step is not None and name not in fixed and step not in needed:
            needed.add(step)
            pending.extend(step.reads)
    return needed


def _dying(steps: Sequence[Step], wanted: Sequence[str], fixed: frozenset[str]) -> list[tuple[str, ...]]:
    """For each step, the tensors that nothing reads after it."""
    seen = set(wanted) | fixed
    dying: list[tuple[str, ...]] = []
    for step in reversed(steps):
        last = [name for name in (*step.reads, *step.outputs) if name and name not in seen]
        dying.append(tuple(dict.fromkeys(last)))
        seen.update(last)
    return dying[::-1]
