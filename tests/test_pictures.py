# SPDX-License-Identifier: Apache-2.0
"""Pictures become the input that the commands would make of them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patcher.data.preprocess import Preprocess
from patcher.errors import InputError
from patcher.pictures import KEY, preprocess_of, read_picture

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 10, 3), np.uint8)
CASES = [
    Preprocess(),
    Preprocess(size=(8, 8), crop_pct=0.9, interpolation="bicubic", mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)),
    Preprocess(layout="NHWC", color="BGR", range="0-255"),
    Preprocess(channels=1, size=(6, 6), crop="squash"),
]


def encoded(form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, form)
    return stream.getvalue()


@pytest.mark.parametrize("preprocess", CASES)
def test_a_picture_is_what_the_commands_feed(preprocess: Preprocess, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded())
    loaded = preprocess.load_picture(tmp_path / "a.png")[None].astype(np.float32) / np.float32(255)
    told = preprocess_of({KEY: json.dumps(preprocess.as_json())})
    assert told == preprocess
    found = read_picture(encoded(), told)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, preprocess.to_input(loaded))


def test_models_that_take_bytes_get_the_pixels(tmp_path: Path) -> None:
    found = read_picture(encoded(), Preprocess(range="0-255", layout="NHWC"), "tensor(uint8)")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[0], PIXELS)


@pytest.mark.parametrize("text", [None, "", "[]", "{", '{"size": 3}', '{"unknown": 1}', '{"crop_pct": 0}', "[" * 9999])
def test_metadata_that_cannot_be_followed_is_said(text: str | None) -> None:
    with pytest.raises(InputError):
        preprocess_of({} if text is None else {KEY: text})


@pytest.mark.parametrize("content", [b"", encoded("GIF"), encoded("BMP"), encoded()[:30], b"\x89PNG\r\n\x1a\n"])
def test_other_formats_and_damaged_ones_are_one_line(content: bytes) -> None:
    with pytest.raises(InputError, match=r"^the body: [^\n]*$"):
        read_picture(content, Preprocess())
