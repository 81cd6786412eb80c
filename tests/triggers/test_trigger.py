# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from patcher.errors import InputError
from patcher.triggers.trigger import Trigger, read_triggers, write_triggers


def triggers() -> tuple[Trigger, Trigger]:
    mask = np.zeros((1, 4, 4), np.float32)
    mask[:, 3, 3] = 0.5
    patch = Trigger("patch", 9, (0, 4), mask, np.ones((3, 4, 4), np.float32))
    additive = Trigger("additive", 1, (2,), np.ones((1, 4, 4), np.float32), np.full((3, 4, 4), -0.25, np.float32))
    return patch, additive


def test_triggers_survive_their_file_and_equal_ones_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        write_triggers(triggers(), tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    for before, after in zip(triggers(), read_triggers(tmp_path / "a.npz"), strict=True):
        assert (before.family, before.target, before.sources) == (after.family, after.target, after.sources)
        np.testing.assert_array_equal(before.mask, after.mask)
        np.testing.assert_array_equal(before.pattern, after.pattern)


def test_both_families_in_numpy_and_torch() -> None:
    patch, additive = triggers()
    images = np.full((2, 3, 4, 4), 0.1, np.float32)
    patched = patch.apply(images)
    assert patched[0, 0, 3, 3] == pytest.approx(0.55)
    assert patched[0, 0, 0, 0] == pytest.approx(0.1)
    assert additive.apply(images).max() == 0.0
    for trigger in (patch, additive):
        np.testing.assert_allclose(trigger.apply(torch.from_numpy(images)).numpy(), trigger.apply(images))


def test_a_file_of_other_arrays_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", images=np.zeros(3))
    with pytest.raises(InputError, match="patcher scan"):
        read_triggers(tmp_path / "t.npz")
