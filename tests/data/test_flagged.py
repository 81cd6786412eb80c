# SPDX-License-Identifier: Apache-2.0
"""``--flagged``: folders of inputs or pictures, and what is wrong with others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patcher.data.flagged import read_flagged
from patcher.data.preprocess import Preprocess
from patcher.errors import InputError

SHAPE = (3, 8, 8)
GREY = np.full(SHAPE, 0.5, np.float32)


def test_pictures_and_arrays(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(3):
        Image.fromarray(np.full((8, 8, 3), 50 * index, np.uint8)).save(folder / f"{index}.png")
    found = read_flagged(folder, SHAPE, Preprocess())
    assert found.pixels.dtype == np.float32
    np.testing.assert_allclose(found.pixels[:, 0, 0, 0] * 255, [0, 50, 100], atol=1e-4)
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 8, 8, 3), np.uint8))
    assert len(read_flagged(tmp_path / "a.npz", SHAPE, Preprocess()).pixels) == 2


def promising(folder: Path) -> None:
    """A header that promises far more than the file holds."""
    np.save(folder / "a.npy", GREY)
    content = (folder / "a.npy").read_bytes()
    (folder / "a.npy").write_bytes(content.replace(b"(3, 8, 8), }    ", b"(3, 8, 99999), }"))


CASES: list[tuple[Callable[[Path], object], str]] = [
    (lambda _: None, "found none"),
    (lambda folder: (folder / "cat").mkdir(), "without class folders expected, found folder 'cat'"),
    (lambda folder: (np.save(folder / "a.npy", GREY), (folder / "b.png").touch()), "b.png: an .npy file"),
    (lambda folder: (folder / "a.npy").write_bytes(b"\x93NUMPY"), "a.npy: not an .npy file"),
    (promising, "a.npy: not an .npy file"),
    (lambda folder: np.save(folder / "a.npy", np.array([{}], object)), "a.npy: not an .npy file"),
    (lambda folder: np.save(folder / "a.npy", GREY[0]), "three axes expected"),
    (lambda folder: np.save(folder / "a.npy", GREY[:1]), "3 channels"),
    (lambda folder: np.save(folder / "a.npy", GREY[:, :4]), "3x8x8 as the clean ones expected, found 3x4x8"),
    (lambda folder: np.save(folder / "a.npy", GREY + 7), "values of a preprocessed picture"),
    (lambda folder: np.save(folder / "a.npy", GREY * np.nan), "values of a preprocessed picture"),
    (lambda folder: [np.save(folder / f"{n}.npy", GREY[:, n:]) for n in range(2)], r"1.npy: shape \(3, 8, 8\) exp"),
]


@pytest.mark.parametrize(("make", "message"), CASES)
def test_what_cannot_be_used_is_named(make: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(InputError, match=message):
        read_flagged(tmp_path, SHAPE, Preprocess())


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--flagged: a folder"):
        read_flagged(tmp_path / "missing", SHAPE, Preprocess())
