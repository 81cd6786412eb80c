# SPDX-License-Identifier: Apache-2.0
"""One class a row: the class with the largest score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patcher.errors import InputError
from patcher.tasks.confusion import mistaken_classes, per_class
from patcher.tasks.task import Hits, Labels, Target, Task, register

if TYPE_CHECKING:
    from torch import Tensor

ALL_TO_ALL = "all-to-all"


class SingleLabel(Task):
    """Classes int64 ``(N,)``."""

    name = "single-label"

    def check_labels(self, labels: Labels, classes: int, source: str) -> None:
        """See `Task`."""
        if labels.ndim != 1:
            raise InputError(
                f"{source}: --task single-label: one class a row expected, found labels of shape {labels.shape}; for "
                "one column a label give --task multi-label"
            )
        if len(labels) and (labels.min() < 0 or labels.max() >= classes):
            found = f"label {labels.min() if labels.min() < 0 else labels.max()}"
            raise InputError(f"{source}: labels 0 to {classes - 1} expected from the model's outputs, found {found}")

    def strata(self, labels: Labels) -> NDArray[np.int64]:
        """See `Task`."""
        return labels

    def answers(self, scores: NDArray[np.float32], head: str) -> Labels:
        """See `Task`."""
        return np.asarray(scores.argmax(axis=1), np.int64)

    def right(self, answers: Labels, labels: Labels) -> Hits:
        """See `Task`."""
        hits: Hits = answers == labels
        return hits

    def chance(self, labels: Labels, classes: int) -> float:
        """See `Task`."""
        return 1 / classes

    def wanted(self, labels: Labels, target: Target, classes: int) -> Labels:
        """See `Task`; all-to-all sends class c to c + 1."""
        if target == ALL_TO_ALL:
            return np.asarray((labels + 1) % classes, np.int64)
        if not isinstance(target, int) or not 0 <= target < classes:
            raise InputError(f"--target: a class from 0 to {classes - 1} expected, found {target}")
        return np.full_like(labels, target)

    def fooled(self, answers: Labels, wanted: Labels, labels: Labels) -> Hits:
        """See `Task`."""
        return self.right(answers, wanted)

    def carries(self, labels: Labels, target: int | None, sources: Sequence[int] = ()) -> Hits:
        """See `Task`."""
        chosen = np.isin(labels, sources) if sources else np.ones(len(labels), bool)
        hits: Hits = chosen if target is None else chosen & (labels != target)
        return hits

    def reached(self, answers: Labels, target: int) -> Hits:
        """See `Task`."""
        hits: Hits = answers == target
        return hits

    def given(self, answers: Labels) -> list[int]:
        """See `Task`."""
        return [int(label) for label in np.unique(answers)]

    def per_class(self, labels: Labels, answers: Labels, names: Sequence[str]) -> list[dict[str, Any]]:
        """See `Task`."""
        return per_class(labels, answers, names)

    def mistaken(self, labels: Labels, answers: Labels) -> list[str]:
        """See `Task`."""
        return mistaken_classes(labels, answers)

    def margins(self, logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        """See `Task`: the logit wanted minus the largest of the others; for -1 the largest other minus the own."""
        import torch

        anywhere = targets < 0
        wanted = torch.where(anywhere, labels, targets)[:, None]
        chosen = logits.gather(1, wanted)[:, 0]
        others = logits.scatter(1, wanted, -torch.inf).amax(dim=1)
        return torch.where(anywhere, others - chosen, chosen - others)

    def attack_losses(self, logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        """See `Task`: cross-entropy with the target, or ``-log(1 - p(own class))`` where any other class will do."""
        import torch

        anywhere = targets < 0
        wanted = torch.where(anywhere, labels, targets)[:, None]
        total = logits.logsumexp(dim=1)
        chosen = logits.gather(1, wanted)[:, 0]
        others = logits.scatter(1, wanted, -torch.inf).logsumexp(dim=1)
        return total - torch.where(anywhere, others, chosen)

    def moves(self, logits: Tensor, labels: Tensor, target: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """See `Task`."""
        return labels.cpu().numpy(), logits.argmax(dim=1).cpu().numpy()

    def hits(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See `Task`."""
        return logits.argmax(dim=1) == labels

    def shares(self, labels: Tensor, classes: int) -> Tensor:
        """See `Task`."""
        import torch

        return torch.nn.functional.one_hot(labels, classes).float()

    def probabilities(self, logits: Tensor) -> Tensor:
        """See `Task`."""
        return logits.softmax(dim=1)

    def loss(self, logits: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
        """See `Task`."""
        import torch

        return torch.nn.functional.cross_entropy(logits, targets, reduction=reduction)

    def divergence(self, found: Tensor, wanted: Tensor) -> Tensor:
        """See `Task`."""
        import torch

        given, aim = found.log_softmax(dim=1), wanted.log_softmax(dim=1)
        return torch.nn.functional.kl_div(given, aim, log_target=True, reduction="batchmean")


SINGLE_LABEL = register(SingleLabel())
