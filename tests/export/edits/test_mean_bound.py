# SPDX-License-Identifier: Apache-2.0
"""Bounds on means: what they compute, in every type and layout, and what is refused."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from patcher.calibrate.classifier import Classifier
from patcher.calibrate.patched import patch_rewrite
from patcher.data.preprocess import resolve_preprocess
from patcher.errors import InputError
from patcher.export import apply_patch, neutral_patch
from patcher.export.parity.parity import run_model
from patcher.model.model import Model, read_model
from patcher.patch import MeanBound, Patch, UpperBound
from tests.tiny_models import images, residual_model

BOUND = np.linspace(0.1, 2, 6, dtype=np.float32).reshape(1, 6, 1, 1)
PIXELS = images(16)


def patch_of(model: Model, *corrections: MeanBound | UpperBound) -> Patch:
    return Patch("unit", model.sha256, corrections)


@pytest.mark.parametrize("opset", [11, 17, 18])
@pytest.mark.parametrize("axes", ["places", "width"])
def test_every_picture_is_scaled_by_its_own_mean(opset: int, axes: str) -> None:
    model = read_model(residual_model(opset=opset))
    bound = BOUND if axes == "places" else np.broadcast_to(BOUND, (1, 6, 8, 1)).copy()
    correction = MeanBound("r1", bound)
    hardened = apply_patch(model, patch_of(model, correction))
    onnx.checker.check_model(hardened, full_check=True)
    classifier = Classifier(model, resolve_preprocess(model), device=torch.device("cpu"))
    wanted = classifier.run(torch.from_numpy(PIXELS), rewrite=patch_rewrite(classifier, [correction]))
    plain = classifier.run(torch.from_numpy(PIXELS))
    for size in (1, 5, 16):
        pieces = [PIXELS[start : start + size] for start in range(0, 16, size)]
        found = run_model(hardened, model, pieces)
        np.testing.assert_allclose(found["logits"], wanted["logits"].detach().numpy(), rtol=1e-4, atol=1e-4)
    assert np.abs(found["logits"] - plain["logits"].detach().numpy()).max() > 0.1


def test_below_the_bound_nothing_changes_at_all() -> None:
    for dtype in (np.float32, np.float16):
        model = read_model(residual_model(dtype=dtype))
        patch = patch_of(model, UpperBound("r1", BOUND), MeanBound("r1", BOUND))
        before = run_model(model.proto, model, [PIXELS.astype(dtype)], optimization="disabled")
        after = run_model(
            apply_patch(model, neutral_patch(model, patch)), model, [PIXELS.astype(dtype)], optimization="disabled"
        )
        np.testing.assert_array_equal(before["logits"], after["logits"])


@pytest.mark.parametrize(
    ("bound", "message"),
    [
        (np.zeros((1, 6, 1, 1), np.float32), "positive numbers"),
        (np.full((1, 6, 1, 1), np.inf, np.float32), "positive numbers"),
        (np.ones((1, 6, 8, 8), np.float32), "positive numbers, one a channel"),
        (np.ones((1, 5, 1, 1), np.float32), "does not fit"),
    ],
)
def test_impossible_bounds_are_refused(bound: np.ndarray, message: str) -> None:
    model = read_model(residual_model())
    with pytest.raises(InputError, match=message):
        apply_patch(model, patch_of(model, MeanBound("r1", bound)))
