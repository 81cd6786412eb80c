# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from patcher.data.preprocess import Preprocess, resolve_preprocess
from patcher.errors import InputError
from patcher.model.model import read_model
from tests.tiny_models import residual_model

FULL = Preprocess(
    channels=3,
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.3, 0.4),
    layout="NHWC",
    color="BGR",
    range="0-255",
)


def test_arithmetic_by_hand() -> None:
    images = np.zeros((1, 3, 1, 1), np.float32)
    images[0, :, 0, 0] = (1.0, 0.5, 0.0)
    inputs = FULL.to_input(images)
    assert inputs.shape == (1, 1, 1, 3)
    expected = [255 * (blue - mean) / std for blue, mean, std in zip((0.0, 0.5, 1.0), FULL.mean, FULL.std, strict=True)]
    np.testing.assert_allclose(inputs.ravel(), expected, rtol=1e-6)


def test_numpy_and_torch_agree_and_from_input_undoes_it() -> None:
    images = np.random.default_rng(0).random((2, 3, 4, 5), np.float32)
    inputs = FULL.to_input(images)
    np.testing.assert_allclose(FULL.to_input(torch.from_numpy(images)).numpy(), inputs, rtol=1e-5)
    np.testing.assert_allclose(FULL.from_input(inputs), images, atol=1e-6)


def test_a_picture_is_resized_by_its_shorter_side_and_cropped(tmp_path: Path) -> None:
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, 10:30] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    loaded = Preprocess(size=(10, 10), interpolation="nearest").load_picture(tmp_path / "wide.png")
    assert loaded.shape == (3, 10, 10)
    assert loaded.min() == 255, "the centre is kept"


def test_a_grayscale_model_gets_one_channel(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4, 3), 100, np.uint8)).save(tmp_path / "a.png")
    assert Preprocess(channels=1).load_picture(tmp_path / "a.png").shape == (1, 4, 4)


@pytest.mark.parametrize(
    ("values", "flag"),
    [
        ({"mean": (0.5, 0.5)}, "--mean"),
        ({"std": (0.0,)}, "--std"),
        ({"size": (0, 4)}, "--size"),
        ({"crop_pct": 2.0}, "--preprocess"),
        ({"interpolation": "magic"}, "--preprocess"),
    ],
)
def test_bad_values_name_their_flag(values: dict[str, object], flag: str) -> None:
    with pytest.raises(InputError, match=flag):
        Preprocess(**values)  # type: ignore[arg-type]


def test_flags_win_over_timm_keys(tmp_path: Path) -> None:
    config = {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1], "interpolation": "bicubic", "crop_pct": 0.9, "num_classes": 7}
    (tmp_path / "p.json").write_text(json.dumps({"pretrained_cfg": config}))
    model = read_model(residual_model())
    resolved = resolve_preprocess(model, file=tmp_path / "p.json", mean=(0.5,))
    assert (resolved.mean, resolved.std, resolved.crop_pct) == ((0.5,), (1.0, 1.0, 1.0), 0.9)
    assert resolved.interpolation == "bicubic"


@pytest.mark.parametrize("content", ["[1, 2]", "{", '{"mean": "abc"}', '{"input_size": 5}'])
def test_a_broken_json_file_is_one_clear_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "p.json").write_text(content)
    with pytest.raises(InputError, match=r"p\.json"):
        resolve_preprocess(read_model(residual_model()), file=tmp_path / "p.json")


def test_layout_and_size_must_fit_the_model() -> None:
    model = read_model(residual_model())
    with pytest.raises(InputError, match="--layout NHWC"):
        resolve_preprocess(model, layout="NHWC")
    with pytest.raises(InputError, match="--size"):
        resolve_preprocess(model, size=(99, 99))
