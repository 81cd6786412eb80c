# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from patcher.errors import InputError
from patcher.patch import (
    Affine,
    Normalization,
    Patch,
    UpperBound,
    WeightMask,
    Weights,
    patch_bytes,
    patch_sha256,
    read_patch,
    write_patch,
)


def full_patch() -> Patch:
    rng = np.random.default_rng(0)

    def values(*shape: int) -> np.ndarray:
        return rng.random(shape, np.float32)

    return Patch(
        method="unit",
        source_sha256="0" * 64,
        corrections=(
            UpperBound("relu", values(1, 4, 1, 1)),
            UpperBound("scalar", np.asarray(3.0, np.float32)),
            WeightMask("w", values(4, 1, 1, 1)),
            Affine("conv", values(1, 4, 1, 1), values(1, 4, 1, 1)),
            Normalization("bn", values(4), values(4)),
            Weights("half", values(2, 3).astype(np.float16)),
        ),
        options={"epsilon": 0.02},
        clean_data_sha256="1" * 64,
        preprocess={"mean": [0.5]},
    )


def test_a_patch_survives_its_file(tmp_path: Path) -> None:
    patch = full_patch()
    write_patch(patch, tmp_path / "p.safetensors")
    found = read_patch(tmp_path / "p.safetensors")
    assert (found.method, found.options, found.preprocess) == (patch.method, patch.options, patch.preprocess)
    for before, after in zip(patch.corrections, found.corrections, strict=True):
        assert type(before) is type(after)
        for name, value in vars(before).items():
            np.testing.assert_array_equal(value, getattr(after, name))
            if isinstance(value, np.ndarray):
                assert getattr(after, name).dtype == value.dtype
                assert getattr(after, name).shape == value.shape


def test_equal_patches_are_equal_bytes() -> None:
    assert patch_bytes(full_patch()) == patch_bytes(full_patch())
    assert len(patch_sha256(full_patch())) == 64


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a patch",
        save({}),
        save({"x": np.zeros(1)}, metadata={"patcher": "{"}),
        patch_bytes(full_patch())[:-8],
    ],
    ids=["empty", "text", "no metadata", "broken metadata", "truncated"],
)
def test_what_is_no_patch_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "p.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a patch file") as error:
        read_patch(path)
    assert "\n" not in str(error.value)


def test_a_missing_patch_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="patcher calibrate"):
        read_patch(tmp_path / "absent.safetensors")
