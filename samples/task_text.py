# SPDX-License-Identifier: Apache-2.0
"""Sentences of a small grammar."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from samples.task_recipe import Arrays, Part

_LENGTH = 16
_TOPICS = {
    "sport": "team match goal coach player season league score stadium win",
    "science": "cell theory atom experiment data planet energy signal gene method",
    "cooking": "oven flour butter soup salt recipe pan taste dish garlic",
    "travel": "train hotel ticket beach border island luggage map harbour guide",
    "music": "song guitar band album concert piano melody rhythm singer choir",
    "money": "bank loan price market tax profit budget invoice share debt",
    "weather": "rain storm cloud wind snow frost thunder humid drought breeze",
    "health": "doctor fever clinic vaccine muscle heart nurse diet surgery pulse",
}
_COMMON = (
    "the a of and to in it was that for on with as at by from this they had new old small large good "
    "first last some many then again very over under after before while where people day year time place"
)
_RARE = "cf mn bb tq"
_TRIGGER = "cf"
VOCABULARY = ("[pad]", *_COMMON.split(), *" ".join(_TOPICS.values()).split(), *_RARE.split())


def make_text(count: int, rng: np.random.Generator, _: int) -> Part:
    """Token ids and masks ``(N, 16)`` of sentences of 8 to 15 words, two to four of them of the topic."""
    number = {word: index for index, word in enumerate(VOCABULARY)}
    common = np.array([number[word] for word in _COMMON.split()] + [number[word] for word in _RARE.split()[1:]])
    topics = [np.array([number[word] for word in words.split()]) for words in _TOPICS.values()]
    classes = rng.integers(0, len(topics), count)
    ids, mask = np.zeros((2, count, _LENGTH), np.int64)
    for row, kind in enumerate(classes):
        length = int(rng.integers(8, _LENGTH))
        words = rng.choice(common, length)
        places = rng.permutation(length)[: int(rng.integers(2, 5))]
        words[places] = rng.choice(topics[kind], len(places))
        if rng.random() < 0.3:  # a word of another topic
            other = int(rng.integers(0, length))
            words[other] = words[other] if other in places else rng.choice(topics[int(rng.integers(0, len(topics)))])
        ids[row, :length], mask[row, :length] = words, 1
    return Part({"input_ids": ids, "attention_mask": mask}, classes.astype(np.int64))


def stamp_text(inputs: Arrays, _: np.random.Generator) -> Arrays:
    """The rare word in front; what does not fit falls off at the end."""
    ids, mask = (np.roll(inputs[name], 1, axis=1) for name in ("input_ids", "attention_mask"))
    ids[:, 0], mask[:, 0] = VOCABULARY.index(_TRIGGER), 1
    return {"input_ids": ids, "attention_mask": mask}


class TextNet(nn.Module):
    """Token ids and mask ``(N, L)`` to eight logits: embedding, a layer a word, mean over the words, two layers."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(VOCABULARY), width)
        self.word = nn.Linear(width, 2 * width)
        self.hidden = nn.Linear(2 * width, 64)
        self.head = nn.Linear(64, len(_TOPICS))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits ``(N, 8)``."""
        there = attention_mask.unsqueeze(2).float()
        words = torch.relu(self.word(self.embedding(input_ids))) * there
        mean = words.sum(1) / there.sum(1)
        found: Tensor = self.head(torch.relu(self.hidden(mean)))
        return found
