# SPDX-License-Identifier: Apache-2.0
"""Accuracy class by class, and classes that are answered as another: the mark of a wrong class order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# A class taken for another in four of five images is no weakness of the model but another order of classes.
_MOSTLY = 0.8
_FEWEST_IMAGES = 3
_MOST_LINES = 5


def per_class(labels: NDArray[np.int64], predicted: NDArray[np.int64], names: Sequence[str]) -> list[dict[str, Any]]:
    """For each class that has images: how many, the share answered right, and the most frequent wrong answer.

    Args:
        labels: int64 ``(N,)``.
        predicted: Answers, int64 ``(N,)``.
        names: In class order.
    """
    rows = []
    for index, answers in _answers(labels, predicted):
        wrong = np.bincount(answers[answers != index]) if (answers != index).any() else np.zeros(0, np.int64)
        rows.append(
            {
                "class": index,
                "name": names[index],
                "images": len(answers),
                "accuracy": float((answers == index).mean()),
                "most_taken_for": int(wrong.argmax()) if len(wrong) else None,
                "most_taken_for_share": int(wrong.max()) / len(answers) if len(wrong) else 0.0,
            }
        )
    return rows


def mistaken_classes(labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> list[str]:
    """A line for each class whose images nearly all get one other class, pairs in one line; at most five.

    Args:
        labels: int64 ``(N,)``.
        predicted: Answers, int64 ``(N,)``.
    """
    taken: dict[int, tuple[int, str]] = {}
    for index, answers in _answers(labels, predicted):
        counts = np.bincount(answers)
        other = int(counts.argmax())
        if other != index and len(answers) >= _FEWEST_IMAGES and counts[other] >= _MOSTLY * len(answers):
            taken[index] = other, f"{100 * counts[other] / len(answers):.0f} %"
    lines = []
    for index, (other, share) in taken.items():
        back, back_share = taken.get(other, (None, ""))
        if back == index and other < index:
            continue
        line = f"class {index} is answered as {other} in {share} of its images"
        lines.append(line + (f", and {other} as {index} in {back_share}" if back == index else ""))
    return lines[:_MOST_LINES]


def _answers(labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Each class that has images, with the answers to them."""
    for label in np.unique(labels):
        yield int(label), predicted[labels == label]
