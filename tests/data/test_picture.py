# SPDX-License-Identifier: Apache-2.0
"""Pictures mean the pixels that a viewer shows, or are refused in one line."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patcher.data.image_sources import read_folder
from patcher.data.preprocess import Preprocess, resolve_preprocess
from patcher.errors import InputError
from patcher.model.model import read_model
from tests.tiny_models import residual_model

SHOWN = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def preprocess() -> Preprocess:
    return resolve_preprocess(read_model(residual_model()))


@pytest.mark.parametrize(
    ("orientation", "stored"),
    [(1, SHOWN), (3, SHOWN[::-1, ::-1]), (6, np.rot90(SHOWN)), (8, np.rot90(SHOWN, -1)), (2, SHOWN[:, ::-1])],
)
def test_the_orientation_of_a_camera(preprocess: Preprocess, tmp_path: Path, orientation: int, stored) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(preprocess.load_picture(tmp_path / "a.png"), SHOWN.transpose(2, 0, 1))


def test_sixteen_bits_are_scaled(preprocess: Preprocess, tmp_path: Path) -> None:
    levels = np.linspace(0, 65535, 64).round().astype(np.uint16).reshape(8, 8)
    Image.fromarray(levels).save(tmp_path / "a.png")
    found = preprocess.load_picture(tmp_path / "a.png")
    assert np.array_equal(found[0], np.rint(levels / 257).astype(np.uint8))
    assert found[0].max() == 255


@pytest.mark.parametrize(("mode", "suffix"), [("CMYK", "jpg"), ("CMYK", "tif"), ("F", "tif")])
def test_inks_and_open_scales_are_refused(preprocess: Preprocess, tmp_path: Path, mode: str, suffix: str) -> None:
    Image.new(mode, (8, 8)).save(tmp_path / f"a.{suffix}")
    with pytest.raises(InputError, match=mode):
        preprocess.load_picture(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_an_animation_is_refused(preprocess: Preprocess, tmp_path: Path, suffix: str) -> None:
    frames = [Image.fromarray(SHOWN), Image.fromarray(255 - SHOWN)]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match="stack of 2"):
        preprocess.load_picture(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("place", ["in a class", "as a class"])
@pytest.mark.parametrize("kind", ["pipe", "loop", "dangling"])
def test_pipes_and_loops_are_refused(preprocess: Preprocess, tmp_path: Path, kind: str, place: str) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(SHOWN).save(tmp_path / name / "1.png")
    entry = tmp_path / "a" / "2.png" if place == "in a class" else tmp_path / "c"
    if kind == "pipe":
        os.mkfifo(entry)
    else:
        entry.symlink_to(entry if kind == "loop" else "nowhere")
    with pytest.raises(InputError, match=entry.name):
        read_folder(tmp_path, 2, preprocess)
    entry.unlink()
    assert len(read_folder(tmp_path, 2, preprocess).pixels) == 2
