# SPDX-License-Identifier: Apache-2.0
"""The loss of mAP of a model with several labels a row."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from patcher.gate.accuracy import accuracy_check
from patcher.gate.policy import Policy, Thresholds
from patcher.tasks import MULTI_LABEL


class _Clean(SimpleNamespace):
    def __len__(self) -> int:
        return len(self.labels)


def subject(after: np.ndarray, **limits: float) -> Any:
    """40 rows with two labels, of which the original's scores are right."""
    labels = np.tile([[1, 0], [0, 1], [1, 1], [0, 0]], (10, 1))
    before = np.where(labels == 1, 0.9, 0.1).astype(np.float32)
    prepared = SimpleNamespace(
        clean_set=_Clean(labels=labels, sha256="a" * 64, held_out=np.arange(32, 40)),
        predicted=MULTI_LABEL.answers(before, "sigmoid"),
        scores=before,
        task=MULTI_LABEL,
    )
    return SimpleNamespace(
        prepared=prepared,
        predicted=MULTI_LABEL.answers(after, "sigmoid"),
        scores=after,
        provenance=None,
        failure="",
        policy=Policy(thresholds=Thresholds(**limits)),
    )


@pytest.mark.parametrize(("limit", "status"), [(0.01, "fail"), (0.5, "pass")])
def test_a_loss_of_map_fails_beside_accuracy(limit: float, status: str) -> None:
    labels = np.tile([[1, 0], [0, 1], [1, 1], [0, 0]], (10, 1))
    after = np.where(labels == 1, 0.9, 0.1).astype(np.float32)
    after[1, 0] = 0.95  # one row made up, and ranked above all that have the label
    found = accuracy_check(subject(after, map_drop=limit, accuracy_drop=0.03))
    assert found.status == status
    assert found.details["mAP"]["before"] == 1.0
    assert 0.9 < found.details["mAP"]["after"] < 0.98
    assert "mAP 100.0% before" in found.message
