# SPDX-License-Identifier: Apache-2.0
"""Preprocessing as other projects write it down; references are written out in NumPy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patcher.data.preprocess import Preprocess, resolve_preprocess
from patcher.errors import InputError
from patcher.model.model import read_model
from tests.tiny_models import images, residual_model

MODEL = read_model(residual_model(image=("N", 3, "H", "W")))
PIXELS = images()
BYTES = PIXELS * 255
MEAN, STD = np.array([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1), np.array([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)


def resolved(document: dict[str, Any], folder: Path, **flags: Any) -> Preprocess:
    file = folder / "preprocess.json"
    file.write_text(json.dumps(document))
    return resolve_preprocess(MODEL, file=file, **flags)


VIT = {"do_resize": True, "size": {"height": 24, "width": 24}, "do_rescale": True, "rescale_factor": 1 / 255,
       "do_normalize": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "resample": 2,
       "image_processor_type": "ViTImageProcessor"}  # fmt: skip
EFFICIENTNET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "rescale_factor": 1 / 127.5,
                "rescale_offset": True, "do_rescale": True, "do_normalize": True}  # fmt: skip


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"mode": "tf"}, BYTES / 127.5 - 1),
        ({"mode": "torch"}, (PIXELS - MEAN) / STD),
        ({"mode": "caffe"}, BYTES[:, ::-1] - np.array([103.939, 116.779, 123.68]).reshape(1, 3, 1, 1)),
        ({"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "url": ""}, (PIXELS - MEAN) / STD),
        (VIT, (PIXELS - 0.5) / 0.5),
        (EFFICIENTNET, (BYTES / 127.5 - 1 - MEAN) / STD),
        ({"do_rescale": False, "do_normalize": False, "do_resize": False}, BYTES),
        ({"do_rescale": False, "image_mean": [100, 110, 120], "image_std": [50, 60, 70], "do_normalize": True},
         (BYTES - np.array([100, 110, 120]).reshape(1, 3, 1, 1)) / np.array([50, 60, 70]).reshape(1, 3, 1, 1)),
        ({"do_flip_channel_order": True, "do_normalize": False}, PIXELS[:, ::-1]),
        ({"crop_size": [224], "resize_size": [256], "mean": [0.5], "std": [0.25]}, (PIXELS - 0.5) / 0.25),
    ],
)  # fmt: skip
def test_the_arithmetic_is_that_of_the_project_it_comes_from(
    document: dict[str, Any], expected: np.ndarray, tmp_path: Path
) -> None:
    found = resolved(document, tmp_path).to_input(PIXELS)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize(
    ("document", "geometry"),
    [
        (VIT, ((24, 24), 1.0, "bilinear", "squash")),
        ({"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224},
          "resample": 3}, ((224, 224), 0.875, "bicubic", "center")),
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875, "do_resize": True},
         ((224, 224), 0.875, "bilinear", "center")),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875, "do_resize": True},
         ((384, 384), 1.0, "bilinear", "squash")),
        ({"crop_size": [224], "resize_size": [232], "interpolation": "InterpolationMode.BICUBIC"},
         ((224, 224), 224 / 232, "bicubic", "center")),
        ({"input_size": [3, 64, 48], "crop_pct": 0.9, "interpolation": "bicubic"},
         ((64, 48), 0.9, "bicubic", "center")),
    ],
)  # fmt: skip
def test_the_geometry(document: dict[str, Any], geometry: tuple[Any, ...], tmp_path: Path) -> None:
    found = resolved(document, tmp_path)
    assert (found.size, pytest.approx(found.crop_pct), found.interpolation, found.crop) == geometry


def test_squashed_pictures_keep_their_edges(tmp_path: Path) -> None:
    from PIL import Image

    wide = np.zeros((10, 40, 3), np.uint8)
    wide[:, :10] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    squashed = Preprocess(size=(8, 8), crop="squash").load_picture(tmp_path / "wide.png")
    cut = Preprocess(size=(8, 8)).load_picture(tmp_path / "wide.png")
    assert squashed.shape == cut.shape == (3, 8, 8)
    assert squashed[:, :, 0].min() > 200
    assert cut.max() < 50


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"image_mean": [0.5], "image_std": [0.5], "pad_size": 3}, "found pad_size"),
        ({"means": [0.5]}, "found means"),
        ({"mode": "pytorch"}, "Keras mode"),
        ({"resize_size": [256], "mean": [0.5], "sdt": [1]}, "found sdt"),
        ({"crop_mode": "border"}, "crop_mode"),
        ({"do_normalize": True}, "image_mean"),
    ],
)
def test_what_is_not_understood_is_an_error(document: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        resolved(document, tmp_path)


def test_names_instead_of_a_file() -> None:
    assert resolve_preprocess(MODEL, file="keras:caffe").color == "BGR"
    with pytest.raises(InputError, match="Keras mode"):
        resolve_preprocess(MODEL, file="keras:mx")


def test_a_mean_in_units_of_255_is_refused_with_the_numbers_that_were_meant() -> None:
    with pytest.raises(InputError, match=r"--mean 0\.4078,0\.4588,0\.4824 --range 0-255"):
        resolve_preprocess(MODEL, mean=(104, 117, 123), range="0-255")
    with pytest.raises(InputError, match=r"--mean 0\.4902,0\.4902,0\.4902 --std 0\.2235,0\.2235,0\.2235 --range 0-1"):
        resolve_preprocess(MODEL, mean=(125, 125, 125), std=(57, 57, 57))
    found = resolve_preprocess(MODEL, mean=(0.4902,), std=(0.2235,)).to_input(PIXELS)
    np.testing.assert_allclose(found, (BYTES - 125) / 57, atol=2e-3)
