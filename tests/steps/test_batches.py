# SPDX-License-Identifier: Apache-2.0
"""How many images are run at a time."""

from __future__ import annotations

import numpy as np

from patcher.calibrate.unit.options import Options
from patcher.model.activations import activation_bytes
from patcher.model.model import read_model
from patcher.steps.batches import fitting_batch, fitting_options
from tests.tiny_models import residual_model

# c1, r1, c2, sum, r2 of 6 channels; the image; pooled, flat and logits.
FLOATS = 5 * 6 * 64 + 3 * 64 + 6 + 6 + 4


def pixels(side: int) -> np.ndarray:
    return np.broadcast_to(np.uint8(0), (1, 3, side, side))


def test_activations_are_counted_without_weights() -> None:
    assert activation_bytes(read_model(residual_model()), (8, 8)) == 4 * FLOATS


def test_of_open_sides_the_size_of_the_images_counts() -> None:
    model = read_model(residual_model(image=("N", 3, "H", "W")))
    assert activation_bytes(model, (8, 8)) == 4 * FLOATS
    assert activation_bytes(model, (16, 16)) > 3.9 * 4 * FLOATS


def test_small_models_keep_every_default() -> None:
    model = read_model(residual_model())
    assert fitting_batch(model, pixels(8), 128) == 128
    assert fitting_options(Options(), {}, 128).minibatch == 64


def test_large_activations_cut_the_batch_and_the_minibatch_that_nobody_asked_for() -> None:
    model = read_model(residual_model(image=("N", 3, 900, 900)))
    batch = fitting_batch(model, pixels(900), 128)
    assert batch == int(3 * 2**30 / (1.5 * activation_bytes(model, (900, 900))))
    assert 16 < batch < 64, "the numbers below rest on it"
    assert fitting_options(Options(), {}, batch).minibatch == batch // 2
    assert fitting_options(Options(), {}, 2).minibatch == 8
    assert fitting_options(Options(minibatch=48), {"minibatch": 48}, 2).minibatch == 48
    assert fitting_batch(model, pixels(900), 4) == 4


def test_where_steps_are_smaller_more_of_them_pass_between_measurements() -> None:
    assert fitting_options(Options(), {}, 128).check_every == 10
    assert fitting_options(Options(), {}, 64).check_every == 20
    assert fitting_options(Options(), {}, 2).check_every == 30  # a tenth of all steps
    assert fitting_options(Options(steps=20), {"steps": 20}, 2).check_every == 10
    assert fitting_options(Options(check_every=5), {"check_every": 5}, 2).check_every == 5
