# SPDX-License-Identifier: Apache-2.0
"""Flagged inputs in a folder: bounded, whole, and no reason to fail."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from patcher.data.flagged import read_flagged
from patcher.data.preprocess import Preprocess
from patcher.errors import InputError
from patcher.kept import Keeper

INPUTS = np.random.default_rng(0).random((9, 3, 8, 8), np.float32)


def stored(folder: Path) -> list[np.ndarray]:
    return [np.load(file) for file in sorted(folder.glob("*.npy"))]


def test_the_oldest_go_first(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "new" / "folder", most_files=4)
    for row in INPUTS:
        assert keeper.keep(row[None]) == 1
    np.testing.assert_array_equal(stored(tmp_path / "new" / "folder"), INPUTS[-4:])


def test_bytes_are_bounded(tmp_path: Path) -> None:
    Keeper(tmp_path, most_bytes=3000).keep(INPUTS)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 3000
    assert len(stored(tmp_path)) == 3
    assert Keeper(tmp_path, most_bytes=100).keep(INPUTS) == 0


def test_one_input_over_and_over_is_kept_once(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, most_files=3)
    keeper.keep(INPUTS[:2])
    for _ in range(20):
        keeper.keep(INPUTS[:1])
    np.testing.assert_array_equal(stored(tmp_path), INPUTS[:2])


def test_other_files_are_left_alone_and_the_next_process_goes_on(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("seen")
    Keeper(tmp_path, most_files=2).keep(INPUTS[:2])
    Keeper(tmp_path, most_files=2).keep(INPUTS[2:4])
    np.testing.assert_array_equal(stored(tmp_path), INPUTS[2:4])
    assert (tmp_path / "notes.txt").read_text() == "seen"


def test_a_full_disk_is_logged_and_leaves_nothing_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = Keeper(tmp_path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("patcher.kept.os.replace", full)
    assert keeper.keep(INPUTS) == 0
    assert "9 flagged inputs not kept" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_goes_away_fails_nothing(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert keeper.keep(INPUTS) == 0


def test_a_folder_that_cannot_be_written_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        Keeper(tmp_path / "file")
    with pytest.raises(InputError, match="at least 1"):
        Keeper(tmp_path, most_files=0)


@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess(),
        Preprocess(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), layout="NHWC", color="BGR"),
        Preprocess(range="0-255"),
    ],
)
def test_what_is_kept_is_read_back_as_pixels(tmp_path: Path, preprocess: Preprocess) -> None:
    Keeper(tmp_path).keep(np.asarray(preprocess.to_input(INPUTS), np.float32))
    found = read_flagged(tmp_path, (3, 8, 8), preprocess)
    np.testing.assert_allclose(found.pixels, INPUTS, atol=1e-5)
    assert found.sha256 == read_flagged(tmp_path, (3, 8, 8), preprocess).sha256
