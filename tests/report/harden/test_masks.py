# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from patcher.patch import Patch, UpperBound, WeightMask
from patcher.report.harden.masks import layer_masks, mask_rows, masks_section, most_suppressed


def patch(**options: float) -> Patch:
    """Two masks, one of them of a grouped transposed convolution, and a correction of another kind."""
    first = WeightMask("conv.weight", np.array([0.5, 0.25, 1.0], np.float32).reshape(3, 1, 1, 1))
    second = WeightMask("up.weight", np.array([[0.1, 1.0], [1.0, 0.9]], np.float32).reshape(2, 2, 1, 1))
    return Patch("nft", "0" * 64, (first, UpperBound("x", np.ones(1, np.float32)), second), options)


def test_layers_are_numbered_and_have_their_floor() -> None:
    layers = layer_masks(patch(floor=0.8, floor_decay=0.5))
    assert [(layer.initializer, layer.number) for layer in layers] == [("conv.weight", 1), ("up.weight", 2)]
    assert [layer.floor for layer in layers] == pytest.approx([0.8 * np.exp(-0.5), 0.8 * np.exp(-1)])
    assert layers[0].ordered.tolist() == [0.25, 0.5, 1.0]
    assert layer_masks(patch())[0].floor is None


def test_the_most_suppressed_channels_by_name() -> None:
    named = most_suppressed(layer_masks(patch()), 3)
    assert [name for name, _ in named] == ["up.weight[0, 0]", "conv.weight[1]", "conv.weight[0]"]
    assert len(most_suppressed(layer_masks(patch()))) == 4, "channels at 1 are not suppressed"


def test_a_mask_of_one_channel() -> None:
    single = Patch("nft", "0" * 64, (WeightMask("w", np.full((1, 1), 0.5, np.float32)),))
    assert most_suppressed(layer_masks(single)) == [("w[0]", 0.5)]


def test_rows_and_section_say_the_same() -> None:
    found = patch(floor=0.8, floor_decay=0.5)
    section = masks_section(found)
    assert section["rows"] == [list(row) for row in mask_rows(layer_masks(found))]
    assert section["rows"][0] == ["conv.weight", "1", "0.49", "0.250", "0.500", "1.000", "1 of 3", "▃▅█"]
    assert section["layers"][1]["sorted"] == [0.1, 0.9, 1.0, 1.0]
