# SPDX-License-Identifier: Apache-2.0
"""Block models as classifiers, and clean sets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from patcher.calibrate.classifier import Classifier
from patcher.data.clean_set import CleanSet, split
from patcher.data.preprocess import resolve_preprocess
from patcher.model.model import read_model
from tests.calibrate.scan.block_models import block_images, block_model


@pytest.fixture(scope="session")
def make_classifier():
    def make(classes=10, **options):
        model = read_model(block_model(classes, **options))
        return Classifier(model, resolve_preprocess(model), device=torch.device("cpu"))

    return make


@pytest.fixture(scope="session")
def make_clean_set():
    def make(per_class=20, classes=10, *, seed=0):
        images, labels = block_images(per_class, classes, seed=seed)
        fit, held_out = split(labels, np.random.default_rng(seed))
        return CleanSet(images, labels, tuple(f"c{k}" for k in range(classes)), fit, held_out, "0" * 64)

    return make
