# SPDX-License-Identifier: Apache-2.0
"""Keep the tightest state that holds the accuracy condition, and steer the regulariser's weight.

The condition is ``accuracy >= accuracy before - epsilon`` on the images that decide (UNIT, Algorithm 1,
lines 9 to 14). What is kept is exactly what was measured. The tightest of many measurements is a lucky
one, so states go first that also hold it with one standard error of the paired difference to spare, over the
deciding images and the training batches since the last measurement together.

Alpha follows each measurement: ``paper``: x2 when the condition holds, else /2. ``authors`` (their published
code): x2 after five good steps in a row, /2^1.5 after five bad ones, back to the start after five good ones
below it. ``constant`` leaves it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from patcher.calibrate.options import AlphaSchedule

_AUTHORS_STEPS_IN_A_ROW = 5  # their published code
_GAIN = 1e-3  # smallest relative gain in tightness that counts as one; chosen, not measured
_ROUNDING = 1e-6  # a loss of exactly epsilon holds the condition


def holds(lost: float, epsilon: float) -> bool:
    """Whether the accuracy condition holds: no more than `epsilon` `lost`, both shares of images, 0 to 1."""
    return lost <= epsilon + _ROUNDING


def least_lost(before: Tensor, after: Tensor) -> float:
    """The smallest loss of accuracy that is possible, where only the first images have been measured again.

    Args:
        before: Whether each image got its label before: bool ``(n,)``.
        after: Whether the first of them do now: bool ``(m,)``, m at most n.

    Returns:
        A share of all images, -1 to 1; the loss itself where m is n.
    """
    seen = len(after)
    gained_at_most = (~before[seen:]).sum()
    return float(before[:seen].sum() - after.sum() - gained_at_most) / len(before)


@dataclass(frozen=True)
class State:
    """Parameters that were measured.

    Attributes:
        step: Optimiser steps done.
        accuracy: On the images that decide, 0 to 1.
        tightness: What is made small.
        satisfied: Whether the condition holds.
        safe: Whether it holds with one standard error to spare.
        parameters: Copies.
    """

    step: int
    accuracy: float
    tightness: float
    satisfied: bool
    safe: bool
    parameters: tuple[Tensor, ...]

    @property
    def rank(self) -> tuple[bool, bool, float]:
        """Safe before satisfied, then tighter; where the condition is not held, more accurate."""
        return (self.satisfied, self.safe, -self.tightness if self.satisfied else self.accuracy)


class Search:
    """Takes in measurements.

    Args:
        before: Whether each deciding image got its label before: bool ``(n,)``.
        epsilon: Accuracy that may be lost, 0 to 1.
        alpha: Weight of the regulariser at the start.
        schedule: How it moves.
        check_every: Steps between measurements.
        patience: Steps without gain after which to stop; ``None`` for never.
        room: Whether states with a standard error to spare go first.

    Attributes:
        alpha: The present weight.
        best: The state to keep; ``None`` before the first measurement.
        curve: One entry a measurement, for the report.
    """

    def __init__(
        self,
        before: Tensor,
        *,
        epsilon: float,
        alpha: float,
        schedule: AlphaSchedule,
        check_every: int,
        patience: int | None = 100,
        room: bool = True,
    ) -> None:
        self.alpha = alpha
        self.best: State | None = None
        self.curve: list[dict[str, float]] = []
        self._before, self._epsilon, self._start, self._schedule = before.float(), epsilon, alpha, schedule
        self._in_a_row = max(1, _AUTHORS_STEPS_IN_A_ROW // check_every)
        self._patience, self._room = patience, room
        self._seen: list[Tensor] = []
        self._good = self._bad = self._improved_at = 0

    def measured(self, step: int, hits: Tensor, tightness: float, parameters: list[Tensor]) -> State:
        """Take in one measurement.

        Args:
            step: Optimiser steps done.
            hits: Whether each deciding image gets its label now: bool ``(n,)``.
            tightness: Of the present parameters.
            parameters: The present parameters; copied.

        Returns:
            The state as measured.
        """
        drop = self._before - hits.float()
        every = torch.cat([drop, *self._seen])
        self._seen.clear()
        error = float(every.std() / len(every) ** 0.5) if len(every) > 1 else 0.0
        satisfied = holds(float(drop.mean()), self._epsilon)
        safe = satisfied and (not self._room or holds(float(every.mean()) + error, self._epsilon))
        copies = tuple(item.detach().clone() for item in parameters)
        state = State(step, float(hits.float().mean()), tightness, satisfied, safe, copies)
        self.curve.append(
            {
                "step": step,
                "held_out_accuracy": state.accuracy,
                "tightness": tightness,
                "alpha": self.alpha,
                "satisfied": state.satisfied,
            }
        )
        self._keep(state)
        if step:
            self._steer(state.safe)
        return state

    def seen(self, before: Tensor, after: Tensor) -> None:
        """Note whether images of a training batch got their label before and now: bool ``(n,)`` each."""
        self._seen.append(before.float() - after.float())

    def exhausted(self, step: int) -> bool:
        """Whether nothing was gained for so long that going on is of no use."""
        return self._patience is not None and step - self._improved_at >= self._patience

    def _keep(self, state: State) -> None:
        best = self.best
        if best is not None and state.rank <= best.rank:
            return
        tighter = best is not None and state.tightness < best.tightness * (1 - _GAIN)
        if best is None or state.rank[:2] != best.rank[:2] or not state.satisfied or tighter:
            self._improved_at = state.step
        self.best = state

    def _steer(self, good: bool) -> None:
        if self._schedule == "constant":
            return
        if self._schedule == "paper":
            self.alpha *= 2.0 if good else 0.5
            return
        self._good, self._bad = (self._good + 1, 0) if good else (0, self._bad + 1)
        if self._good >= self._in_a_row:
            self.alpha = self._start if self.alpha < self._start else 2 * self.alpha
            self._good = 0
        elif self._bad >= self._in_a_row:
            self.alpha /= 2**1.5
            self._bad = 0


def restore(state: State, parameters: list[Tensor], optimizer: torch.optim.Optimizer) -> None:
    """Go back to a state that was measured; the optimiser forgets where it was heading."""
    with torch.no_grad():
        for parameter, kept in zip(parameters, state.parameters, strict=True):
            parameter.copy_(kept)
    optimizer.state.clear()
