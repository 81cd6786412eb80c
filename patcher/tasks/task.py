# SPDX-License-Identifier: Apache-2.0
"""A task: how scores become answers, when an answer is right, what is minimised, and what an attack wants.

Everything that a method, a measurement or a report would otherwise assume of "the class of the picture" is asked here,
so that nothing outside this room tells tasks apart. Whatever the task, a row is right or wrong: accuracy, its
intervals and the conditions on it are shares of rows.

Functions on arrays are NumPy's; those on tensors import torch when they are called.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from patcher.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

AUTO = "auto"
Target = int | str
Labels = NDArray[np.int64]
"""Classes ``(N,)``, or ``(N, K)`` with 1 where a label is there."""
Hits = NDArray[np.bool_]


class Task(ABC):
    """One kind of classification.

    Attributes:
        name: As given to ``--task``.
        right_means: What accuracy counts, in words, where it is not the class; else empty.
        exclusive: Whether a row has one class and no other.
    """

    name: ClassVar[str]
    right_means: ClassVar[str] = ""
    exclusive: ClassVar[bool] = True

    @abstractmethod
    def check_labels(self, labels: Labels, classes: int, source: str) -> None:
        """Refuse labels that do not fit the task.

        Raises:
            InputError: They do not.
        """

    @abstractmethod
    def strata(self, labels: Labels) -> NDArray[np.int64]:
        """Groups ``(N,)`` that a split cuts alike."""

    @abstractmethod
    def answers(self, scores: NDArray[np.float32], head: str) -> Labels:
        """What scores ``(N, K)`` of such a head say, in the form of labels."""

    @abstractmethod
    def right(self, answers: Labels, labels: Labels) -> Hits:
        """Whether each row's answer is its label, or another model's answer: bool ``(N,)``."""

    @abstractmethod
    def chance(self, labels: Labels, classes: int) -> float:
        """Share of rows that are right without looking."""

    @abstractmethod
    def wanted(self, labels: Labels, target: Target, classes: int) -> Labels:
        """What the attacker wants of rows with these labels.

        Raises:
            InputError: The target is none of this task.
        """

    @abstractmethod
    def fooled(self, answers: Labels, wanted: Labels, labels: Labels) -> Hits:
        """Whether each row's answer is what the attacker wants of it, as far as that differs from its label."""

    def counted(self, labels: Labels, wanted: Labels) -> Hits:
        """Rows that attack success is counted over: those of which the attacker wants something else than is true."""
        hits: Hits = (labels != wanted).reshape(len(labels), -1).any(axis=1)
        return hits

    @abstractmethod
    def carries(self, labels: Labels, target: int | None, sources: Sequence[int] = ()) -> Hits:
        """Rows that a trigger to `target` is about: of its source classes, or of all that are not the target's.

        Args:
            labels: ``(N, ...)``.
            target: A class; ``None`` for any answer but the right one.
            sources: Source classes; none for all.
        """

    @abstractmethod
    def reached(self, answers: Labels, target: int) -> Hits:
        """Whether each row's answer has that class: bool ``(N,)``."""

    @abstractmethod
    def given(self, answers: Labels) -> list[int]:
        """Classes that some answers have, in order."""

    def figures(self, scores: NDArray[np.float32], labels: Labels) -> Mapping[str, float]:
        """Further figures of the scores, by name: what the field gives beside the share of right rows."""
        return {}

    @abstractmethod
    def per_class(self, labels: Labels, answers: Labels, names: Sequence[str]) -> list[dict[str, Any]]:
        """A row a class that has rows of data: ``class``, ``name``, ``images``, ``accuracy``, the usual mistake."""

    @abstractmethod
    def mistaken(self, labels: Labels, answers: Labels) -> list[str]:
        """Signs of another order of classes, one line each."""

    @abstractmethod
    def margins(self, logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        """Log-odds of an attack's success, positive where it succeeds: ``(N,)``.

        Args:
            logits: ``(N, K)``.
            labels: The rows' own, ``(N, ...)``.
            targets: int64 ``(N,)``: classes wanted; -1 for any answer but the right one.
        """

    @abstractmethod
    def attack_losses(self, logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        """What a search for triggers makes small, ``(N,)``; arguments as `margins`."""

    @abstractmethod
    def moves(self, logits: Tensor, labels: Tensor, target: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Class that each row comes from and the one it goes to, int64 ``(n,)`` each, of the rows that have one."""

    @abstractmethod
    def hits(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Whether each row is right: logits ``(N, K)`` and labels to bool ``(N,)``."""

    @abstractmethod
    def shares(self, labels: Tensor, classes: int) -> Tensor:
        """Labels as the probabilities ``(N, K)`` that `loss` takes."""

    @abstractmethod
    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits ``(N, K)`` to probabilities ``(N, K)``."""

    @abstractmethod
    def loss(self, logits: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
        """Cross-entropy with probabilities ``(N, K)`` or labels: ``mean`` or ``sum`` over the rows."""

    @abstractmethod
    def divergence(self, found: Tensor, wanted: Tensor) -> Tensor:
        """Mean Kullback-Leibler divergence of the logits found from those wanted, ``(N, K)`` each."""


_REGISTERED: dict[str, Task] = {}


def register(task: Task) -> Task:
    """Make a task known under its name."""
    _REGISTERED[task.name] = task
    return task


def task_names() -> tuple[str, ...]:
    """Names of all tasks."""
    return tuple(_REGISTERED)


def task_of(name: str) -> Task:
    """The task of that name.

    Raises:
        InputError: There is none.
    """
    if name not in _REGISTERED:
        raise InputError(f"--task: {AUTO}, {', '.join(_REGISTERED)} expected, found {name!r}")
    return _REGISTERED[name]
