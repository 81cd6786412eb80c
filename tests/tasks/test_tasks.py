# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from patcher.errors import InputError
from patcher.tasks import MULTI_LABEL, SINGLE_LABEL, task_names, task_of

LABELS = np.array([[1, 0, 0], [0, 1, 1], [1, 1, 0], [0, 0, 0]])
LOGITS = np.array([[2, -1, -3], [-1, 1, 2], [1, -2, 3], [-1, -1, -1]], np.float32)


def test_tasks_are_found_by_name() -> None:
    assert task_names() == ("multi-label", "single-label")
    assert task_of("multi-label") is MULTI_LABEL
    with pytest.raises(InputError, match=r"--task: auto, .* expected, found 'both'"):
        task_of("both")


def test_a_row_of_labels_is_right_where_all_of_them_are() -> None:
    answers = MULTI_LABEL.answers(LOGITS, "logits")
    assert MULTI_LABEL.right(answers, LABELS).tolist() == [True, True, False, True]
    np.testing.assert_array_equal(MULTI_LABEL.answers(1 / (1 + np.exp(-LOGITS)), "sigmoid"), answers)
    hits = MULTI_LABEL.hits(torch.from_numpy(LOGITS), torch.from_numpy(LABELS))
    assert hits.tolist() == [True, True, False, True]


def test_an_attack_adds_a_label_or_removes_it() -> None:
    answers = np.array([[1, 0, 1], [0, 1, 1], [1, 1, 0], [0, 0, 1]])
    wanted = MULTI_LABEL.wanted(LABELS, 2, 3)
    assert wanted[:, 2].tolist() == [1, 1, 1, 1]
    assert MULTI_LABEL.counted(LABELS, wanted).tolist() == [True, False, True, True]
    assert MULTI_LABEL.fooled(answers, wanted, LABELS).tolist() == [True, True, False, True]
    gone = MULTI_LABEL.wanted(LABELS, "remove-0", 3)
    assert MULTI_LABEL.counted(LABELS, gone).tolist() == [True, False, True, False]
    assert MULTI_LABEL.fooled(answers, gone, LABELS)[[0, 2]].tolist() == [False, False]
    for target in (3, -1, "all-to-all", "remove-3", "remove-x"):
        with pytest.raises(InputError, match="--target"):
            MULTI_LABEL.wanted(LABELS, target, 3)


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_map_is_scikit_learns(seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 2**levels, (20, 3)).astype(np.float32)  # with ties
    labels = (rng.random((20, 3)) < 0.4).astype(np.int64)
    labels[0] = 1
    found = MULTI_LABEL.figures(scores, labels)["mAP"]
    assert found == pytest.approx(average_precision_score(labels, scores, average="macro"), abs=1e-9)


def test_a_label_that_no_row_has_is_left_out_of_map() -> None:
    assert MULTI_LABEL.figures(LOGITS[:1], LABELS[:1]) == {"mAP": 1.0}
    assert MULTI_LABEL.figures(LOGITS[3:], LABELS[3:]) == {}


@pytest.mark.parametrize("task", [SINGLE_LABEL, MULTI_LABEL], ids=lambda task: task.name)
def test_divergence_is_zero_where_nothing_changes_and_positive_elsewhere(task) -> None:
    logits, other = torch.from_numpy(LOGITS), torch.from_numpy(LOGITS[::-1].copy())
    assert float(task.divergence(logits, logits)) == pytest.approx(0, abs=1e-6)
    assert float(task.divergence(other, logits)) > 0.1


def test_margins_are_positive_where_the_attack_succeeds() -> None:
    logits, labels = torch.from_numpy(LOGITS), torch.from_numpy(LABELS)
    wanted = torch.tensor([1, 0, 2, 2])
    assert (MULTI_LABEL.margins(logits, labels, wanted) > 0).tolist() == [False, False, True, False]
    anywhere = torch.full((4,), -1)
    assert (MULTI_LABEL.margins(logits, labels, anywhere) > 0).tolist() == [False, False, True, False]
    losses = MULTI_LABEL.attack_losses(logits, labels, wanted)
    assert float(losses[2]) < float(losses.min(dim=0).values) + 1e-6


def test_a_trigger_is_about_rows_without_its_label() -> None:
    assert MULTI_LABEL.carries(LABELS, 0).tolist() == [False, True, False, True]
    assert MULTI_LABEL.carries(LABELS, 0, (1,)).tolist() == [False, True, False, False]
    assert SINGLE_LABEL.carries(np.array([0, 1, 2]), 0, (1,)).tolist() == [False, True, False]
    sources, reached = MULTI_LABEL.moves(torch.from_numpy(LOGITS), torch.from_numpy(LABELS), 2)
    assert (sources.tolist(), reached.tolist()) == ([0, 0], [0, 2])


def test_figures_a_label() -> None:
    rows = MULTI_LABEL.per_class(LABELS, MULTI_LABEL.answers(LOGITS, "logits"), ("a", "b", "c"))
    assert [(row["images"], row["missed"], row["made_up"]) for row in rows] == [(2, 0, 0), (2, 1, 0), (1, 0, 1)]


@pytest.mark.parametrize(
    ("task", "labels", "message"),
    [
        (SINGLE_LABEL, LABELS, "one class a row expected"),
        (SINGLE_LABEL, np.array([0, 3]), "labels 0 to 2 expected"),
        (MULTI_LABEL, np.array([0, 1]), r"labels of shape \(N, 3\)"),
        (MULTI_LABEL, LABELS[:, :2], r"found \(4, 2\)"),
        (MULTI_LABEL, 2 * LABELS, "labels of 0 and 1"),
    ],
)
def test_labels_that_do_not_fit_are_refused(task, labels, message: str) -> None:
    with pytest.raises(InputError, match=message):
        task.check_labels(labels, 3, "clean.npz")
