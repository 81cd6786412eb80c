# SPDX-License-Identifier: Apache-2.0
"""A few hundred of the fuzzer's inputs, and that it sees what it is there to see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import fuzz
from benchmarks.damage import damaged, damaged_archive, damaged_graph, sound_images, sound_model
from patcher.errors import InputError


def test_damaged_files_are_read_or_refused() -> None:
    found = fuzz.fuzz(320, whole_every=20)
    assert found["inputs"] == 320
    assert found["faults"] == []
    assert found["peak_mib"] < 2048


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (InputError("one line"), "refused"),
        (InputError("two\nlines"), "refusal of several lines"),
        (KeyError("x"), "KeyError"),
    ],
)
def test_what_a_reader_raises_is_told_apart(tmp_path: Path, error: Exception, expected: str) -> None:
    def read(path: Path) -> object:
        raise error

    (tmp_path / "out").mkdir()
    kind = fuzz.Kind(".bin", b"content", read, lambda path, out: [])
    assert fuzz.run_one(kind, "x", 0, tmp_path, whole=False).startswith(expected)


def test_a_file_that_a_reader_leaves_is_found(tmp_path: Path) -> None:
    def read(path: Path) -> object:
        (tmp_path / "out" / "stray").write_text("x")
        return None

    (tmp_path / "out").mkdir()
    kind = fuzz.Kind(".bin", b"content", read, lambda path, out: [])
    assert fuzz.run_one(kind, "x", 0, tmp_path, whole=False) == "left stray"


def test_damage_is_repeatable_and_differs() -> None:
    for damage, content in (
        (damaged, b"abcdef" * 40),
        (damaged_graph, sound_model()),
        (damaged_archive, sound_images()),
    ):
        first = [damage(content, np.random.default_rng(seed)) for seed in range(20)]
        assert first == [damage(content, np.random.default_rng(seed)) for seed in range(20)]
        assert len(set(first)) > 10
