# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from patcher.calibrate.classifier import Classifier
from patcher.calibrate.run import Run
from patcher.calibrate.scan.effect import predicted_classes
from patcher.calibrate.scan.figures import Findings
from patcher.calibrate.scan.inversion import Inverted
from patcher.calibrate.scan.latent import last_linear, latent_distances, latent_scores
from patcher.calibrate.scan.model_verdict import decide
from patcher.calibrate.scan.options import Options
from patcher.calibrate.scan.single_sources import single_sources
from patcher.calibrate.scan.stages import search
from patcher.calibrate.scan.target_verdict import Thresholds
from patcher.calibrate.triggered import estimated_triggers
from patcher.data.preprocess import resolve_preprocess
from patcher.model.model import read_model
from tests.calibrate.scan.block_models import PLACES, SIDE


def sizes_from(near):
    """A search that finds every source at size 0.04, one of them at `near`."""

    def search(family, goals, number):
        return [
            Inverted(goal, family, {"difference": np.zeros((1, 12, 12), np.float32)}, size, 1.0, True, 80)
            for goal in goals
            for size in [near if goal.source == 3 else 0.04 + 0.001 * goal.source]
        ]

    return search


@pytest.mark.parametrize(("near", "found"), [(0.004, [3]), (0.03, [])])
def test_a_source_far_nearer_than_the_others_is_named(make_clean_set, near, found):
    clean_set = make_clean_set()
    named = single_sources(sizes_from(near), clean_set, clean_set.labels, ("additive",), [7], Thresholds())
    assert [item.source for item in named] == found
    assert all((item.target, item.trigger.sources) == (7, (3,)) for item in named)


def test_a_clean_model_has_no_single_source(make_classifier, make_clean_set):
    clean_set, classifier = make_clean_set(), make_classifier()
    predicted = predicted_classes(classifier, clean_set, batch_size=256)
    options = Options(family=("patch",), steps=20, seeds=1, sources=1)
    findings = search(Run(classifier, 0, 512), clean_set, predicted, options, Thresholds())
    assert findings.single_sources == ()
    assert decide(findings, Thresholds(), clean_set.class_names).level == "clean"


def linear_classifier():
    """The block model without a backdoor as one linear layer."""
    blocks = np.zeros((10, SIDE * SIDE), np.float32)
    for label, (row, column) in enumerate(PLACES[:10]):
        blocks[label].reshape(SIDE, SIDE)[row : row + 3, column : column + 3] = 1.0
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["image"], ["flat"]), helper.make_node("Gemm", ["flat", "w"], ["y"], transB=1)],
        "linear",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ("N", 1, SIDE, SIDE))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("N", 10))],
        [numpy_helper.from_array(blocks, "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model = read_model(proto)
    return Classifier(model, resolve_preprocess(model), device=torch.device("cpu")), blocks


def test_latent_distances_are_the_smallest_shifts(make_clean_set):
    classifier, blocks = linear_classifier()
    clean_set = make_clean_set()
    name, rows = last_linear(classifier.model)
    assert name == "flat"
    np.testing.assert_array_equal(rows, blocks)
    distances = latent_distances(classifier, clean_set, clean_set.fit, batch_size=64)
    # Blocks do not overlap: with |w|^2 = 9 the dual of class k is a diagonal plus a constant, solved by hand.
    labels = clean_set.labels[clean_set.fit]
    scores = np.einsum("nchw,khw->nk", clean_set.pixels[clean_set.fit], blocks.reshape(10, SIDE, SIDE))
    for target, distance in enumerate(distances):
        foreign = np.delete(scores, target, axis=1)[labels != target] - scores[labels != target][:, [target]]
        needed = np.quantile(foreign, 0.95, axis=0)
        dual = (needed - needed.sum() / 10) / 9
        assert (dual > 0).all(), "all constraints hold with equality"
        assert distance == pytest.approx(np.sqrt(needed @ dual), rel=1e-3)
    assert distances.max() < 1.2 * distances.min(), "blocks are alike: no class stands out"


def test_a_model_that_does_not_end_in_one_linear_layer_has_no_latent_distances(make_classifier, make_clean_set):
    clean_set = make_clean_set()
    assert latent_distances(make_classifier(target=7), clean_set, clean_set.fit, batch_size=64) is None


def test_the_class_that_a_small_shift_gives_has_the_highest_score():
    distances = np.array([4.0, 4.2, 3.9, 4.1, 2.5, 4.0, 4.3, 3.8, 4.0, 4.1])
    assert latent_scores(distances).argmax() == 4
    assert latent_scores(distances).max() > 2.5


def test_a_class_that_is_too_close_makes_a_model_suspicious_without_a_trigger(tmp_path, make_clean_set):
    distances = np.array([4.0, 4.2, 3.9, 4.1, 2.5, 4.0, 4.3, 3.8, 4.0, 4.1])
    findings = Findings((), (), (), distances=distances, classes=10)
    decision = decide(findings, Thresholds(), tuple("abcdefghij"))
    assert (decision.level, decision.triggers) == ("suspicious", ())
    assert "class 4 (e) is far too close" in decision.reasons[-1]
    near = Findings((), (), (), distances=np.where(distances < 3, 3.7, distances), classes=10)
    assert decide(near, Thresholds(), tuple("abcdefghij")).level == "inconclusive"
    model = linear_classifier()[0].model
    document = {"verdict": "suspicious", "model": {"sha256": model.sha256}, "triggers": 0}
    (tmp_path / "scan.json").write_text(json.dumps(document))
    given = estimated_triggers(None, str(tmp_path / "scan.json"), model, make_clean_set())
    assert given == ((), "suspicious"), "a defence has nothing to undo, and is not stopped by it"
