# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import second_opinions
from patcher.calibrate.classifier import Classifier
from patcher.data.clean_set import read_clean_set
from patcher.data.preprocess import resolve_preprocess
from patcher.model.model import read_model

SAMPLES = Path(__file__).parents[2] / "samples"


def opinion(name, klass, score):
    return {
        name: {
            "class": klass,
            "score": score,
            "gap": 1.0,
            "accuracy": 0.5,
            "divergence": 0.1,
            "source": 0,
            "cpu_s": 1.0,
        }
    }


def row(attack, target, latent, noise, bounds):
    named = {"name": attack, "architecture": "r", "attack": attack, "mode": "a2o", "target": target}
    return (
        named
        | opinion("latent", *latent)
        | opinion("one way", *latent)
        | opinion("noise", *noise)
        | opinion("bounds", *bounds)
    )


def test_the_summary_counts_the_right_classes_and_those_above_every_clean_network():
    rows = [
        row("none", None, (1, 2.0), (1, 0.6), (1, 1.0)),
        row("warp", 3, (3, 5.0), (3, 0.5), (2, 9.0)),
        row("patch", 4, (4, 1.5), (4, 0.7), (4, 0.9)),
        row("patch", "c+1", (1, 9.0), (1, 0.9), (1, 9.0)),
    ]
    text = second_opinions.summary(rows)
    assert "latent: the attacker's class on 2 of 2, 1 of them above" in text
    assert "noise: the attacker's class on 2 of 2, 1 of them above" in text
    assert "bounds: the attacker's class on 1 of 2, 0 of them above" in text
    assert second_opinions.table(rows).count("\n| ") == 5


@pytest.fixture(scope="module")
def network_and_images():
    model = read_model(SAMPLES / "digits.onnx")
    preprocess = resolve_preprocess(model)
    clean_set = read_clean_set(SAMPLES / "clean", model, preprocess, seed=0)
    return Classifier(model, preprocess, device=torch.device("cpu")), clean_set


def test_noise_makes_a_network_worse_and_more_noise_more_so(network_and_images):
    classifier, clean_set = network_and_images
    none, some = (second_opinions.noise(classifier, clean_set, clean_set.fit, size) for size in (0.0, 0.5))
    assert some["accuracy"] < none["accuracy"]
    assert some["score"] == max(some["shares"]) == some["shares"][some["class"]]


def test_bounds_name_the_class_that_loses_most(network_and_images):
    classifier, clean_set = network_and_images
    found = second_opinions.bounds(classifier, clean_set, clean_set.fit)
    assert found["divergence"] > 0
    assert math.isclose(sum(found["lost"]), 0, abs_tol=1e-9)
    assert found["class"] == int(np.argmax(found["lost"]))
