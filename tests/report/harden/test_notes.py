# SPDX-License-Identifier: Apache-2.0
"""Few held-out images: one of them may be more than the loss that is allowed."""

from __future__ import annotations

import numpy as np
import pytest

import patcher
from tests.tiny_models import residual_model


@pytest.fixture
def clean(tmp_path):
    rng = np.random.default_rng(0)
    images = (rng.random((60, 8, 8, 3)) * rng.random((60, 1, 1, 3))).astype(np.float32)
    np.savez(tmp_path / "clean.npz", images=images)
    return tmp_path / "clean.npz"


@pytest.mark.parametrize(("epsilon", "said"), [(0.02, True), (0.2, False)])
def test_the_note_says_how_many_images_it_takes(clean, epsilon, said):
    result = patcher.harden(residual_model(), clean_dir=clean, steps=1, pseudo_labels=True, epsilon=epsilon)
    count = result.as_json()["clean_set"]["held_out"]
    note = f"{count} held-out images cannot resolve --epsilon 2.0%: one of them is {1 / count:.1%}; 50 are needed"
    assert (note in result.as_json()["notes"]) is said
