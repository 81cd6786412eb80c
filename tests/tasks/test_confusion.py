# SPDX-License-Identifier: Apache-2.0
"""Accuracy class by class, and the mark of a wrong class order."""

from __future__ import annotations

import numpy as np
import pytest

from patcher.tasks.confusion import mistaken_classes, per_class

LABELS = np.repeat(np.arange(5), 10)


def test_swapped_classes_are_named_once() -> None:
    predicted = LABELS.copy()
    predicted[LABELS == 1], predicted[LABELS == 3] = 3, 1
    assert mistaken_classes(LABELS, predicted) == [
        "class 1 is answered as 3 in 100 % of its images, and 3 as 1 in 100 %"
    ]


def test_a_class_that_is_taken_for_another_one_way() -> None:
    predicted = LABELS.copy()
    predicted[np.flatnonzero(LABELS == 4)[:9]] = 0
    assert mistaken_classes(LABELS, predicted) == ["class 4 is answered as 0 in 90 % of its images"]


@pytest.mark.parametrize("wrong", [0, 5, 7])
def test_ordinary_mistakes_are_no_order(wrong: int) -> None:
    predicted = LABELS.copy()
    predicted[np.flatnonzero(LABELS == 4)[:wrong]] = 0
    assert mistaken_classes(LABELS, predicted) == []


def test_two_images_are_too_few_to_say() -> None:
    assert mistaken_classes(np.array([0, 0, 1, 1]), np.array([1, 1, 1, 1])) == []


def test_rows_of_the_classes_that_have_images() -> None:
    labels, predicted = np.array([0, 0, 0, 0, 2, 2]), np.array([0, 0, 1, 2, 2, 2])
    first, second = per_class(labels, predicted, "abc")
    assert (first["class"], first["name"], first["images"], first["accuracy"]) == (0, "a", 4, 0.5)
    assert (first["most_taken_for"], first["most_taken_for_share"]) == (1, 0.25)
    assert (second["class"], second["accuracy"], second["most_taken_for"]) == (2, 1.0, None)
