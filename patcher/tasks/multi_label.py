# SPDX-License-Identifier: Apache-2.0
"""Any number of labels a row, each with a score of its own: there where its probability is above one half.

A row is right where all its labels are. Beside that stands the mean average precision of the field,

    AP of a label  = mean over the rows that have it, ranked by score, of the precision down to that rank
    mAP            = mean of the AP over labels that some rows have

An attack adds a label (``--target 3``) or removes one (``--target remove-3``), and leaves the others as they are
(Chen et al., "Clean-image Backdoor", ICLR 2023).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patcher.errors import InputError
from patcher.tasks.task import Hits, Labels, Target, Task, register

if TYPE_CHECKING:
    from torch import Tensor

REMOVE = "remove-"


class MultiLabel(Task):
    """Labels int64 ``(N, K)``: 1 where a label is there, else 0."""

    name = "multi-label"
    right_means = "all labels right"
    exclusive = False

    def check_labels(self, labels: Labels, classes: int, source: str) -> None:
        """See `Task`."""
        if labels.ndim != 2 or labels.shape[1] != classes:
            raise InputError(
                f"{source}: --task multi-label: labels of shape (N, {classes}), one column a score of the model, "
                f"expected, found {labels.shape}"
            )
        if len(labels) and not set(np.unique(labels).tolist()) <= {0, 1}:
            raise InputError(f"{source}: --task multi-label: labels of 0 and 1 expected, found others")

    def strata(self, labels: Labels) -> NDArray[np.int64]:
        """See `Task`: rows with as many labels."""
        return np.asarray(labels.sum(axis=1), np.int64)

    def answers(self, scores: NDArray[np.float32], head: str) -> Labels:
        """See `Task`."""
        return np.asarray(scores > (0.5 if head == "sigmoid" else 0.0), np.int64)

    def right(self, answers: Labels, labels: Labels) -> Hits:
        """See `Task`."""
        hits: Hits = (answers == labels).all(axis=1)
        return hits

    def chance(self, labels: Labels, classes: int) -> float:
        """See `Task`: the most frequent set of labels."""
        return float(np.unique(labels, axis=0, return_counts=True)[1].max() / max(1, len(labels)))

    def wanted(self, labels: Labels, target: Target, classes: int) -> Labels:
        """See `Task`."""
        text = str(target)
        number = text.removeprefix(REMOVE)
        if not number.isdecimal() or int(number) >= classes:
            raise InputError(
                f"--target: a label from 0 to {classes - 1}, or {REMOVE} before it, expected for --task multi-label, "
                f"found {target}"
            )
        changed = labels.copy()
        changed[:, int(number)] = 0 if text.startswith(REMOVE) else 1
        return changed

    def fooled(self, answers: Labels, wanted: Labels, labels: Labels) -> Hits:
        """See `Task`: the label that was added or removed, whatever becomes of the others."""
        hits: Hits = ((answers == wanted) | (wanted == labels)).all(axis=1)
        return hits

    def carries(self, labels: Labels, target: int | None, sources: Sequence[int] = ()) -> Hits:
        """See `Task`: rows without the target; of source classes those that have one of them."""
        chosen = (labels[:, list(sources)] == 1).any(axis=1) if sources else np.ones(len(labels), bool)
        hits: Hits = chosen if target is None else chosen & (labels[:, target] == 0)
        return hits

    def reached(self, answers: Labels, target: int) -> Hits:
        """See `Task`."""
        hits: Hits = answers[:, target] == 1
        return hits

    def given(self, answers: Labels) -> list[int]:
        """See `Task`."""
        return [int(label) for label in np.flatnonzero(answers.any(axis=0))]

    def figures(self, scores: NDArray[np.float32], labels: Labels) -> Mapping[str, float]:
        """See `Task`: mAP."""
        known = [column for column in range(labels.shape[1]) if labels[:, column].any()]
        if not known:
            return {}
        return {"mAP": float(np.mean([average_precision(scores[:, k], labels[:, k] == 1) for k in known]))}

    def per_class(self, labels: Labels, answers: Labels, names: Sequence[str]) -> list[dict[str, Any]]:
        """See `Task`: accuracy of each label's own answer, and how often it is missed or made up."""
        rows = []
        for index, name in enumerate(names):
            there, said = labels[:, index] == 1, answers[:, index] == 1
            rows.append(
                {
                    "class": index,
                    "name": name,
                    "images": int(there.sum()),
                    "accuracy": float((there == said).mean()) if len(there) else 0.0,
                    "missed": int((there & ~said).sum()),
                    "made_up": int((said & ~there).sum()),
                    "most_taken_for": None,
                    "most_taken_for_share": 0.0,
                }
            )
        return rows

    def mistaken(self, labels: Labels, answers: Labels) -> list[str]:
        """See `Task`: nothing is told from sets of labels."""
        return []

    def margins(self, logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        """See `Task`: the target's own logit; for -1 that of the label that is most wrong."""
        import torch

        anywhere = targets < 0
        chosen = logits.gather(1, targets.clamp_min(0)[:, None])[:, 0]
        most_wrong = torch.where(labels > 0, -logits, logits).amax(dim=1)
        return torch.where(anywhere, most_wrong, chosen)

    def attack_losses(self, logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        """See `Task`: cross-entropy of the one label."""
        import torch

        return torch.nn.functional.softplus(-self.margins(logits, labels, targets))

    def moves(self, logits: Tensor, labels: Tensor, target: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """See `Task`: from its first label to the target, or nowhere; rows without the target, with another label."""
        own, added = labels.cpu().numpy(), (logits[:, target] > 0).cpu().numpy()
        rows = (own[:, target] == 0) & own.any(axis=1)
        sources = own[rows].argmax(axis=1)
        return sources, np.where(added[rows], target, sources)

    def hits(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See `Task`."""
        return ((logits > 0) == (labels > 0)).all(dim=1)

    def shares(self, labels: Tensor, classes: int) -> Tensor:
        """See `Task`."""
        return labels.float()

    def probabilities(self, logits: Tensor) -> Tensor:
        """See `Task`."""
        return logits.sigmoid()

    def loss(self, logits: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
        """See `Task`: the sum over labels."""
        import torch

        total = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets.float(), reduction="sum")
        return total if reduction == "sum" else total / len(logits)

    def divergence(self, found: Tensor, wanted: Tensor) -> Tensor:
        """See `Task`: the sum over labels."""
        aim = wanted.sigmoid()
        return self.loss(found, aim) - self.loss(wanted, aim)


def average_precision(scores: NDArray[np.float32], there: NDArray[np.bool_]) -> float:
    """Area under the precision-recall curve in steps, rows of one score together; at least one row is `there`."""
    order = np.argsort(-scores, kind="stable")
    hits, ranked = np.cumsum(there[order]), scores[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # of each run of equal scores
    found = hits[last]
    return float((np.diff(found, prepend=0) * found / (last + 1)).sum() / found[-1])


MULTI_LABEL = register(MultiLabel())
