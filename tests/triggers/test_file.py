# SPDX-License-Identifier: Apache-2.0
"""The trigger file: what was written is read, version 1 is still read, anything else is refused in one line."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from patcher.errors import InputError
from patcher.triggers.family import families, family_of
from patcher.triggers.file import holds_triggers, read_triggers, write_triggers
from patcher.triggers.trigger import Trigger

SHAPE = (3, 8, 6)


def triggers():
    """Two of each family, in mixed order."""
    found = []
    for row in (0, 1):
        for name in families("picture"):
            family = family_of(name)
            values = family.values(family.start(2, SHAPE, np.random.default_rng(5)))
            found.append(Trigger(name, 9, (0, 4), {key: array[row] for key, array in values.items()}, SHAPE))
    return found


def test_triggers_survive_their_file_and_equal_ones_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        write_triggers(triggers(), tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert holds_triggers(tmp_path / "a.npz")
    for before, after in zip(triggers(), read_triggers(tmp_path / "a.npz"), strict=True):
        assert (before.family, before.target, before.sources) == (after.family, after.target, after.sources)
        assert before.shape == after.shape
        for name, array in before.values.items():
            np.testing.assert_array_equal(array, after.values[name])


def test_version_1_is_read(tmp_path: Path) -> None:
    masks, patterns = np.ones((2, 1, 4, 4), np.float32), np.full((2, 3, 4, 4), 0.25, np.float32)
    masks[0] = 0.5
    sources = np.array([[True, False, True], [False, True, True]])
    np.savez(tmp_path / "t.npz", family=[0, 1], target=[1, 0], sources=sources, masks=masks, patterns=patterns)
    patch, additive = read_triggers(tmp_path / "t.npz")
    assert [(item.family, item.target, item.sources) for item in (patch, additive)] == [
        ("patch", 1, (0, 2)),
        ("additive", 0, (1, 2)),
    ]
    images = np.full((2, 3, 4, 4), 0.1, np.float32)
    assert patch.apply(images) == pytest.approx(0.175)
    assert additive.apply(images) == pytest.approx(0.35)


def arrays(path: Path) -> dict[str, np.ndarray]:
    write_triggers(triggers()[:2], path)
    with np.load(path) as file:
        return dict(file)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": np.array(3)}, "version 1 or 2 expected, found 3"),
        ({"version": np.array("two")}, "version 1 or 2 expected"),
        ({"family": np.array(["wrap", "colour"])}, "'wrap'"),
        ({"family": np.array(["tones"])}, "2 triggers expected"),
        ({"target": np.array([1, -1])}, "targets"),
        ({"target": np.zeros(0, np.int64)}, "targets"),
        ({"sources": np.zeros((2, 5))}, "sources"),
        ({"shape": np.array([3, 0, 6])}, "height"),
        ({"colour.matrix": np.zeros((1, 4, 4), np.float32)}, r"\(1, 3, 3\) expected"),
        ({"colour.matrix": np.zeros((2, 3, 3), np.float32)}, r"\(1, 3, 3\) expected"),
        ({"colour.matrix": np.full((1, 3, 3), np.nan, np.float32)}, "NaN"),
        ({"colour.matrix": np.zeros((1, 3, 3), np.int64)}, "int64"),
        ({"colour.matrix": None}, "found none"),
        ({"shape": None}, "missing: shape"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, change, reason) -> None:
    found = arrays(tmp_path / "t.npz") | change
    np.savez(tmp_path / "t.npz", **{name: value for name, value in found.items() if value is not None})
    with pytest.raises(InputError, match=reason):
        read_triggers(tmp_path / "t.npz")


def test_an_array_that_lies_about_its_length_is_refused(tmp_path: Path) -> None:
    found = arrays(tmp_path / "t.npz")
    with zipfile.ZipFile(tmp_path / "t.npz", "w") as archive:
        for name, value in found.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, value, allow_pickle=False)
            content = member.getvalue()
            archive.writestr(f"{name}.npy", content[:-4] if name == "colour.matrix" else content)
    with pytest.raises(InputError, match=r"not an \.npz file of plain arrays"):
        read_triggers(tmp_path / "t.npz")


def test_a_file_of_other_arrays_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", images=np.zeros(3))
    assert not holds_triggers(tmp_path / "t.npz")
    with pytest.raises(InputError, match="patcher scan"):
        read_triggers(tmp_path / "t.npz")
