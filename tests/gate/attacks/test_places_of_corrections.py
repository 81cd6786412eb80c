# SPDX-License-Identifier: Apache-2.0
"""Files made by the product's own edits, with corrections that no calibration makes: proven, and still refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from patcher.errors import InputError
from patcher.export.apply import apply_guard, apply_patch
from patcher.model.file import write_model
from patcher.patch import (
    Affine,
    Bias,
    Branch,
    BranchForm,
    Correction,
    Realignment,
    UpperBound,
    WeightMask,
    read_patch,
    write_patch,
)
from tests.gate.attacks.conftest import Stage, branch, channels

PIXELS = np.random.default_rng(0).random((1, 6, 8, 8), np.float32)
CLASSES = np.array([[0, 0, 0, 9]], np.float32)
NO_BOUND = channels(np.inf), channels(-np.inf)

ATTACKS: dict[str, tuple[str, tuple[Correction, ...]]] = {
    "a scale for each pixel": ("nft", (Affine("r2", PIXELS, PIXELS),)),
    "a shift along the rows of the image": ("nft", (Affine("r2", PIXELS[:, :1, :, :1], PIXELS[:, :1, :, :1]),)),
    "one scale for all channels of the scores": ("nft", (Affine("logits", CLASSES, CLASSES),)),
    "a shift of the class scores": ("nft", (Bias("logits", CLASSES),)),
    "a bound on the class scores": ("unit", (UpperBound("logits", 1 - CLASSES), UpperBound("r1", channels(0.5)))),
    "a bound on a convolution": ("unit", (UpperBound("c1", channels(0.5)), UpperBound("r1", channels(0.5)))),
    "a bound on the features": ("unit", (UpperBound("flat", np.zeros((1, 6), np.float32)),)),
    "a mask for each weight": ("nft", (WeightMask("w2", PIXELS[:, :, :3, :3].repeat(6, axis=0)),)),
    "a mask along the inputs": ("nft", (WeightMask("w2", PIXELS[:, :, :1, :1]),)),
    "a mask of single weights": ("nft", (WeightMask("w2", np.eye(6, dtype=np.float32).reshape(6, 6, 1, 1)),)),
    "a mask on a bias": ("nft", (WeightMask("b1", PIXELS[0, :, 0, 0]),)),
    "a mask on the last layer": ("nft", (WeightMask("fc", np.array([[0], [0], [0], [1]], np.float32)),)),
    "a mask on statistics": ("nft", (WeightMask("mean1", PIXELS[0, :, 0, 0]),)),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_it_fails(stage: Stage, path: Path, tmp_path: Path, name: str) -> None:
    method, corrections = ATTACKS[name]
    patch = replace(read_patch(stage.patch(method)), corrections=corrections)
    write_model(apply_patch(stage.model, patch), path)
    write_patch(patch, tmp_path / "patch.safetensors")
    assert "reconstruction" in stage.failures(path)
    assert "reconstruction" in stage.failures(path, patch=tmp_path / "patch.safetensors")


IDENTITY = Realignment("n1", channels(1), channels(0), *NO_BOUND)
SECOND = {
    "nothing": (),
    "the first pass again": (IDENTITY,),
    "bounds beyond any activation": (replace(IDENTITY, upper=channels(1e30), lower=channels(-1e30)),),
    "the class scores": (Realignment("logits", CLASSES, CLASSES, CLASSES + np.inf, CLASSES - np.inf),),
    "single pixels": (Realignment("sum", PIXELS, PIXELS, PIXELS + np.inf, PIXELS - np.inf),),
    "what is no layer": (Realignment("flat", *[np.ones((1, 6), np.float32) / 2] * 4),),
    "a scale that drowns all others": (replace(IDENTITY, scale=channels(1e9)),),
}


@pytest.mark.parametrize("form", ["if", "where", "two-files"])
@pytest.mark.parametrize("name", SECOND)
def test_a_second_pass_of_values_that_no_images_give(stage: Stage, path: Path, name: str, form: BranchForm) -> None:
    item: Branch = replace(branch(form), corrections=SECOND[name])
    patch = replace(read_patch(stage.patch("bna")), corrections=(item,))
    write_model(apply_patch(stage.model, patch), path)
    guard = apply_guard(stage.model, patch)
    if guard is not None:
        write_model(guard, path.with_name("hostile.guard.onnx"))
    assert "reconstruction" in stage.failures(path)


def test_a_second_pass_that_does_not_fit(stage: Stage) -> None:
    for scale in (PIXELS, channels(1).repeat(2, axis=0), channels(1)[:, :5]):
        item = replace(branch("if"), corrections=(replace(IDENTITY, scale=scale),))
        with pytest.raises(InputError, match="n1"):
            apply_patch(stage.model, replace(read_patch(stage.patch("bna")), corrections=(item,)))
