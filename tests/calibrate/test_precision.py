# SPDX-License-Identifier: Apache-2.0
"""A search in bfloat16 where nothing is lost by it, in float32 elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from patcher.calibrate import precision
from patcher.calibrate.classifier import Classifier
from patcher.calibrate.precision import reduced_precision
from patcher.calibrate.run import Run
from patcher.calibrate.scan.options import Options
from patcher.calibrate.scan.rounds import Rounds
from patcher.data.clean_set import CleanSet, split
from patcher.data.preprocess import resolve_preprocess
from patcher.model.model import read_model
from tests.calibrate.scan.block_models import block_images, block_model


@pytest.fixture
def fast(monkeypatch):
    """A device that is fast in bfloat16; every CPU computes in it."""
    monkeypatch.setattr(precision, "has_fast_bfloat16", lambda device: True)


def classifier_of(model):
    read = read_model(model)
    return Classifier(read, resolve_preprocess(read), device=torch.device("cpu"))


def fine_model():
    """Scores that hang on differences of pixels by 1e-4: bfloat16 rounds pixels to about 4e-3."""
    weight = np.zeros((144, 10), np.float32)
    weight[np.arange(0, 20, 2), np.arange(10)], weight[np.arange(1, 21, 2), np.arange(10)] = 1e4, -1e4
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["image"], ["flat"]), helper.make_node("MatMul", ["flat", "weight"], ["logits"])],
        "fine",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ("N", 1, 12, 12))],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ("N", 10))],
        [numpy_helper.from_array(weight, "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def clean_set():
    images, labels = block_images(20, 10)
    fit, held_out = split(labels, np.random.default_rng(0))
    return CleanSet(images, labels, tuple(f"c{k}" for k in range(10)), fit, held_out, "0" * 64)


def rounds(model, wanted="auto"):
    options = Options(family=("patch",), precision=wanted)
    return Rounds(Run(classifier_of(model), 0, 64), clean_set(), options)


def images(classifier):
    return classifier.tensor(block_images(6, 10)[0])


@pytest.mark.usefixtures("fast")
def test_a_model_that_answers_the_same_is_searched_in_bfloat16():
    classifier = classifier_of(block_model(target=7))
    reduced = reduced_precision(classifier, images(classifier))
    assert reduced.precision == torch.bfloat16
    assert classifier.precision == torch.float32, "what is found is measured by the one given"
    wanted, found = classifier.logits(images(classifier)), reduced.logits(images(classifier))
    assert found.dtype == torch.float32
    assert not torch.equal(wanted, found)
    assert torch.equal(wanted.argmax(dim=1), found.argmax(dim=1))
    assert rounds(block_model(target=7)).precision == "bfloat16"


@pytest.mark.usefixtures("fast")
def test_a_model_that_hangs_on_fine_differences_stays_in_float32():
    generator = np.random.default_rng(0)
    close = (128 + generator.integers(0, 2, (64, 1, 12, 12))).astype(np.uint8)
    classifier = classifier_of(fine_model())
    tensor = classifier.tensor(close) * 0.01 + 0.5
    assert reduced_precision(classifier, tensor) is classifier


@pytest.mark.usefixtures("fast")
def test_an_operator_without_bfloat16_leaves_float32(monkeypatch):
    classifier = classifier_of(block_model())
    plain = Classifier.logits

    def refuses(self, batch, **options):
        if self.precision == torch.bfloat16:
            raise RuntimeError("not implemented for 'BFloat16'")
        return plain(self, batch, **options)

    monkeypatch.setattr(Classifier, "logits", refuses)
    assert reduced_precision(classifier, images(classifier)) is classifier


def test_a_device_that_is_slow_in_it_is_left_alone(monkeypatch):
    monkeypatch.setattr(precision, "has_fast_bfloat16", lambda device: False)
    assert rounds(block_model()).precision == "float32"


@pytest.mark.usefixtures("fast")
def test_float32_is_had_on_request():
    assert rounds(block_model(), "float32").precision == "float32"
