# SPDX-License-Identifier: Apache-2.0
"""The peers of the run-time flag compute what their papers say, and the table what the rows hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks import detectors, flag
from benchmarks.attacks import goals
from patcher.calibrate.classifier import Classifier
from patcher.data.preprocess import Preprocess
from tests.calibrate.nft.test_nft import FOLDED, NORMALIZED, clean_set
from tests.tiny_models import images

IMAGES = images(6, seed=2)


def classifier(model) -> Classifier:
    return Classifier(model, Preprocess(), device=torch.device("cpu"))


def test_strip_is_the_mean_entropy_over_overlays() -> None:
    model, data = classifier(FOLDED), clean_set(FOLDED)
    chosen = np.random.default_rng(0).choice(data.fit, 10, replace=False)
    entropies = []
    for overlay in data.images(chosen):
        logits = model.logits(torch.from_numpy(np.clip(IMAGES + overlay, 0, 1)))
        entropies.append(torch.distributions.Categorical(logits=logits).entropy().numpy())
    np.testing.assert_allclose(detectors.Strip(model, data)(IMAGES), -np.mean(entropies, axis=0), rtol=1e-4)


def test_scaling_a_folded_convolution_is_scaling_the_normalization() -> None:
    assert detectors.scaled_layers(classifier(NORMALIZED)) == ["n1", "n2"]
    assert detectors.scaled_layers(classifier(FOLDED)) == ["c1"]  # the other convolution has no bias


def test_ibd_psc_is_a_mean_confidence_in_the_plain_class() -> None:
    model, data = classifier(NORMALIZED), clean_set(NORMALIZED)
    detector = detectors.IbdPsc(model, data)
    found = detector(IMAGES)
    layers = detectors.scaled_layers(model)
    plain = model.logits(torch.from_numpy(IMAGES)).argmax(dim=1)
    confidences = []
    for count in range(detector.first, len(layers) + 1):
        rewrite = dict.fromkeys(layers[-count:], lambda value: 1.5 * value)
        probabilities = model.logits(torch.from_numpy(IMAGES), rewrite=rewrite).softmax(dim=1)
        confidences.append(probabilities[range(len(IMAGES)), plain].numpy())
    np.testing.assert_allclose(found, np.mean(confidences, axis=0), rtol=1e-4)


@pytest.mark.parametrize(
    ("mode", "goal", "counted"),
    [
        ("a2o", [3, 3, 3], [True, False, True]),
        ("a2a", [1, 4, 0], [True, True, True]),
        ("one", [3, 3, 3], [False, False, True]),
    ],
)
def test_goals(mode: str, goal: list[int], counted: list[bool]) -> None:
    entry = {"mode": mode, "target": 3, "source": 9}
    wanted, which = goals(np.array([0, 3, 9]), entry)
    assert wanted.tolist() == goal
    assert which.tolist() == counted


def test_the_table_and_its_summary() -> None:
    found = {"fpr": 0.01, "cost": 1.2, "auroc": 0.99, "tpr": 0.9}
    rows = [
        {
            "name": "a",
            "attack": "warp",
            "mode": "a2o",
            "architecture": "r",
            "flag": found,
            "strip": {**found, "tpr": 0.1},
        },
        {"name": "b", "attack": "none", "mode": None, "architecture": "r", "flag": {"fpr": 0.03, "cost": 1.0}},
        {"name": "c", "attack": "warp", "mode": "a2a", "architecture": "r", "flag": {"code": 1, "message": ""}},
    ]
    text = flag.table(rows)
    assert "| a | warp a2o | r | 0.990 / 0.900 / 0.010 | 0.990 / 0.100 / 0.010 | - | - |" in text
    assert "exit 1" in text
    assert "flag: 1 backdoored and 1 clean networks" in text
    assert "FPR mean 0.020, highest 0.030" in text
    assert "ibd_psc" not in text
