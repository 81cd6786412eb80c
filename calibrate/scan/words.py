# SPDX-License-Identifier: Apache-2.0
"""Words that send sentences to a class, found through the gradient of the embedding (HotFlip, Ebrahimi et al., 2018).

With e_p the vector at place p of the sentence and g its gradient of the mean loss, exchanging the word there for word
v changes the loss by about (E_v - e_p) g. So, word by word up to the longest trigger,

    1. put a word in front, take g at its place
    2. try the words with the smallest E_v g on sentences, keep the best; once more from there

Every figure is of real sentences with real words; the gradient only says which ones are worth trying.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patcher.calibrate.classifier import Classifier
from patcher.calibrate.scan.goal import Goal, eligible
from patcher.calibrate.scan.inversion import Budget, Inverted, wanted_success
from patcher.data.clean_set import CleanSet, Indices
from patcher.errors import UnsupportedGraphError
from patcher.graph.embedding import Embedding, find_embedding
from patcher.progress import Progress, no_progress
from patcher.triggers.families.words import LONGEST, as_values
from patcher.triggers.trigger import Trigger

# Chosen, not measured.
_TRIED = 48  # words a place and round
_ROUNDS = 2
_SENTENCES = 48
_FIRST_WORD = 1  # what stands at the place before anything is known of it


def insert_words(
    classifier: Classifier,
    clean_set: CleanSet,
    goals: Sequence[Goal],
    family: str,
    budget: Budget,
    *,
    seed: int,
    batch_size: int,
    progress: Progress = no_progress,
    description: str = "words",
) -> list[Inverted]:
    """The fewest words that reach each goal, else the most successful; see `invert`, whose arguments it has.

    Raises:
        UnsupportedGraphError: The model looks its ids up in no constant table.
    """
    embedding = find_embedding(classifier.model)
    if embedding is None:
        raise UnsupportedGraphError("family words: ids that are looked up in a constant table expected, found none")
    wanted = wanted_success(goals, budget, classifier.model.num_classes)
    found = []
    for row, goal in enumerate(goals):
        pool = eligible(goal, clean_set.labels, clean_set.fit, clean_set.task)
        chosen = np.random.default_rng((seed, row)).permutation(pool)[:_SENTENCES]
        found.append(_Search(classifier, clean_set, goal, chosen, embedding, batch_size).run(family, wanted[row]))
        progress(description, row + 1, len(goals))
    return found


class _Search:
    """State of the search for one goal."""

    def __init__(
        self,
        classifier: Classifier,
        clean_set: CleanSet,
        goal: Goal,
        chosen: Indices,
        embedding: Embedding,
        batch_size: int,
    ) -> None:
        self.classifier, self.goal, self.embedding, self.batch_size = classifier, goal, embedding, batch_size
        self.shape = clean_set.shape
        self.rows = classifier.tensor(clean_set.images(chosen))
        self.labels = torch.from_numpy(clean_set.labels[chosen]).to(classifier.device)
        target = -1 if goal.target is None else goal.target
        self.targets = torch.full((len(chosen),), target, device=classifier.device)
        self.table = classifier.graph.initializers[embedding.table]

    def run(self, family: str, wanted: float) -> Inverted:
        """Add words until the goal is reached."""
        tokens: list[int] = []
        best: tuple[float, list[int]] = (-1.0, [])
        for length in range(1, LONGEST + 1):
            tokens = [_FIRST_WORD, *tokens]
            for _ in range(_ROUNDS):
                tokens = self._exchanged(tokens)
            success = self._measured(tokens)[0]
            if success > best[0]:
                best = (success, list(tokens))
            if success >= wanted:
                return Inverted(self.goal, family, as_values(tokens), float(length), success, True, length)
        return Inverted(self.goal, family, as_values(best[1]), float(LONGEST), best[0], False, LONGEST)

    def _exchanged(self, tokens: list[int]) -> list[int]:
        """The same with the best word that was tried in front."""
        scores = (self.table.float() @ self._slope(tokens)).cpu().numpy()
        tried = [int(word) for word in np.argsort(scores, kind="stable")[:_TRIED]]
        found = {word: self._measured([word, *tokens[1:]]) for word in dict.fromkeys([tokens[0], *tried])}
        return [max(found, key=lambda word: found[word]), *tokens[1:]]

    def _slope(self, tokens: list[int]) -> Tensor:
        """Gradient of the mean loss with respect to the vector in front, ``(D,)``."""
        offset = torch.zeros(self.table.shape[1], device=self.classifier.device, requires_grad=True)

        def moved(value: Tensor) -> Tensor:
            return torch.cat([value[:, :1] + offset.to(value), value[:, 1:]], dim=1)

        total = torch.zeros((), device=self.classifier.device)
        for rows, labels, targets in self._pieces():
            logits = self.classifier.logits(self._put(rows, tokens), rewrite={self.embedding.tensor: moved})
            total = total + self.classifier.task.attack_losses(logits, labels, targets).sum()
        (slope,) = torch.autograd.grad(total / len(self.rows), offset)
        return slope

    @torch.no_grad()
    def _measured(self, tokens: list[int]) -> tuple[float, float]:
        """Share of the sentences that go where the goal wants them, and their mean margin."""
        margins = torch.cat(
            [
                self.classifier.task.margins(self.classifier.logits(self._put(rows, tokens)), labels, targets)
                for rows, labels, targets in self._pieces()
            ]
        )
        return float((margins > 0).float().mean()), float(margins.mean())

    def _pieces(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        parts = (part.split(self.batch_size) for part in (self.rows, self.labels, self.targets))
        return list(zip(*parts, strict=True))

    def _put(self, rows: Tensor, tokens: list[int]) -> Tensor:
        values: dict[str, NDArray[np.float32]] = as_values(tokens)
        return torch.as_tensor(Trigger("words", 0, (), values, self.shape).apply(rows))
