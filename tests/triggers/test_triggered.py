# SPDX-License-Identifier: Apache-2.0
"""Triggers of a scan put into clean images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from patcher.data.clean_set import CleanSet
from patcher.errors import InputError
from patcher.triggers.file import holds_triggers, write_triggers
from patcher.triggers.trigger import Trigger
from patcher.triggers.triggered import triggered_by

LABELS = np.array([0, 0, 1, 1, 2, 2])


def clean_set(side: int = 4) -> CleanSet:
    pixels = np.zeros((6, 3, side, side), np.float32)
    return CleanSet(pixels, LABELS, ("a", "b", "c"), np.arange(4), np.arange(4, 6), "0" * 64)


def trigger(target: int, sources: tuple[int, ...]) -> Trigger:
    mask = np.zeros((1, 4, 4), np.float32)
    mask[0, 0, 0] = 1
    pattern = np.full((3, 4, 4), (target + 1) / 4, np.float32)
    return Trigger("patch", target, sources, {"mask": mask, "pattern": pattern}, (3, 4, 4))


def written(folder: Path, *triggers: Trigger) -> Path:
    path = folder / "triggers.npz"
    write_triggers(triggers, path)
    return path


def test_only_the_sources_carry_the_trigger(tmp_path: Path) -> None:
    found = triggered_by(written(tmp_path, trigger(2, (0,))), clean_set())
    assert found.target == 2
    assert found.labels.tolist() == [0, 0]
    assert (found.pixels[:, :, 0, 0] == 0.75).all()
    assert found.pixels[:, :, 1:].sum() == 0


def test_without_sources_all_other_classes_carry_it(tmp_path: Path) -> None:
    assert triggered_by(written(tmp_path, trigger(2, ())), clean_set()).labels.tolist() == [0, 0, 1, 1]


def test_a_turn_of_all_classes_is_scored_as_all_to_all(tmp_path: Path) -> None:
    path = written(tmp_path, *(trigger((k + 1) % 3, (k,)) for k in range(3)))
    found = triggered_by(path, clean_set())
    assert found.target == "all-to-all"
    assert sorted(found.labels.tolist()) == LABELS.tolist()


def test_several_targets_leave_a_choice(tmp_path: Path) -> None:
    path = written(tmp_path, trigger(0, (1, 2)), trigger(2, (0, 1)))
    with pytest.raises(InputError, match="--target"):
        triggered_by(path, clean_set())
    assert triggered_by(path, clean_set(), 0).labels.tolist() == [1, 1, 2, 2]


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, trigger(2, (0,)))
    with pytest.raises(InputError, match="pictures of"):
        triggered_by(path, clean_set(side=5))
    with pytest.raises(InputError, match="no trigger to class 1"):
        triggered_by(path, clean_set(), 1)


def test_images_are_not_taken_for_triggers(tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", images=np.zeros((2, 4, 4, 3), np.uint8), labels=np.zeros(2, np.int64))
    assert not holds_triggers(tmp_path / "images.npz")
    assert holds_triggers(written(tmp_path, trigger(2, (0,))))
