# SPDX-License-Identifier: Apache-2.0
"""What the last features say without any form of trigger: distances, ways that are open one way only."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from scipy.optimize import minimize

from patcher.calibrate.classifier import Classifier
from patcher.calibrate.scan.figures import Findings, SingleSource
from patcher.calibrate.scan.latent import LatentSpace, last_linear, latent_distances, latent_scores, latent_space
from patcher.calibrate.scan.model_verdict import decide
from patcher.calibrate.scan.one_way import OneWay, is_open, one_ways
from patcher.calibrate.scan.outliers import Outlier
from patcher.calibrate.scan.target_verdict import Thresholds
from patcher.calibrate.triggered import estimated_triggers
from patcher.data.preprocess import resolve_preprocess
from patcher.model.model import read_model
from tests.calibrate.scan.block_models import PLACES, SIDE
from tests.calibrate.scan.test_target_verdict import CERTAIN


def decided(**findings):
    """The decision on ten targets of which no family says anything, with these findings besides."""
    alike = replace(CERTAIN, outlier=Outlier(0.0, 1.0, 1.0), relative=0.5)
    candidates = tuple(replace(alike, target=target) for target in range(10))
    given = Findings(candidates, (), tuple(range(10)), classes=10, **findings)
    return decide(given, Thresholds(), tuple("abcdefghij"))


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


@pytest.mark.parametrize(("classes", "width"), [(10, 4), (60, 12), (100, 40)])
def test_the_smallest_shift_is_that_of_another_solver(classes, width):
    rng = np.random.default_rng(classes)
    rows = rng.standard_normal((classes, width)) * 1e-3
    features = rng.standard_normal((80, width))
    space = LatentSpace(features @ rows.T, np.zeros(80, np.int64), rows)
    directions = rows[0] - rows[1:]
    needed = np.quantile(space.logits[:, 1:] - space.logits[:, [0]], 0.95, axis=0)
    found = minimize(
        lambda shift: shift @ shift,
        np.linalg.lstsq(directions, needed + 1e-2, rcond=None)[0],
        jac=lambda shift: 2 * shift,
        constraints={
            "type": "ineq",
            "fun": lambda s: 1e3 * (directions @ s - needed),
            "jac": lambda s: 1e3 * directions,
        },
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-12},
    )
    assert found.success
    assert space.shift(np.ones(80, bool), 0) == pytest.approx(np.sqrt(found.fun), rel=1e-4)


def test_a_class_that_no_shift_gives():
    rows = np.array([[0.0], [1.0], [-1.0]])
    space = LatentSpace(np.array([[0.0, 1.0, 1.0]]), np.array([1]), rows)
    assert np.isnan(space.shift(np.array([True]), 0))


def test_latent_distances_are_the_smallest_shifts(make_clean_set):
    classifier, blocks = linear_classifier()
    clean_set = make_clean_set()
    name, rows = last_linear(classifier.model)
    assert name == "flat"
    np.testing.assert_array_equal(rows, blocks)
    distances = latent_distances(latent_space(classifier, clean_set, clean_set.fit, batch_size=64))
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
    assert latent_space(make_classifier(target=7), clean_set, clean_set.fit, batch_size=64) is None


def test_the_class_that_a_small_shift_gives_has_the_highest_score():
    distances = np.array([4.0, 4.2, 3.9, 4.1, 2.5, 4.0, 4.3, 3.8, 4.0, 4.1])
    assert latent_scores(distances).argmax() == 4
    assert latent_scores(distances).max() > 2.5


def test_a_class_that_is_too_close_makes_a_model_suspicious_without_a_trigger(tmp_path, make_clean_set):
    distances = np.array([4.0, 4.2, 3.9, 4.1, 2.5, 4.0, 4.3, 3.8, 4.0, 4.1])
    decision = decided(distances=distances)
    assert (decision.level, decision.triggers) == ("suspicious", ())
    assert [item.target for item in decision.targets if item.level == "suspicious"] == [4]
    assert "class 4 (e), far too close" in decision.reasons[-1]
    assert decided(distances=np.where(distances < 3, 3.7, distances)).level == "clean"
    model = linear_classifier()[0].model
    document = {"verdict": "suspicious", "model": {"sha256": model.sha256}, "triggers": 0}
    (tmp_path / "scan.json").write_text(json.dumps(document))
    given = estimated_triggers(None, str(tmp_path / "scan.json"), model, make_clean_set())
    assert given == ((), "suspicious"), "a defence has nothing to undo, and is not stopped by it"


def space_with(nearer):
    """Ten classes alike, but for the pairs (source, target) of `nearer`."""
    labels = np.repeat(np.arange(10), 30)
    logits = np.random.default_rng(0).normal(0, 0.3, (300, 10))
    logits[np.arange(300), labels] += 6
    for source, target in nearer:
        logits[labels == source, target] += 4
    return LatentSpace(logits, labels, 3 * np.eye(10))


def test_a_way_that_is_open_one_way_only_is_found():
    first = one_ways(space_with([(0, 6)]))[0]
    assert (first.source, first.target) == (0, 6)
    assert is_open(first)


def test_classes_that_are_alike_both_ways_are_no_such_way():
    assert not any(is_open(way) for way in one_ways(space_with([(0, 6), (6, 0), (3, 5), (5, 3)])))
    assert not any(is_open(way) for way in one_ways(space_with([])))


def test_classes_with_few_images_are_left_out():
    whole = space_with([(0, 6)])
    kept = np.flatnonzero((whole.labels != 0) | (np.arange(300) < 5))
    few = LatentSpace(whole.logits[kept], whole.labels[kept], whole.rows)
    assert all(0 not in (way.source, way.target) for way in one_ways(few))
    assert one_ways(None) == ()


def test_an_open_way_alone_is_suspicious_and_with_a_trigger_from_that_source_a_backdoor():
    way = OneWay(0, 6, 14.0)
    decision = decided(one_ways=(way,))
    assert (decision.level, decision.triggers) == ("suspicious", ())
    assert "class 6 (g), from class 0 (a) the way is far shorter than the way back" in decision.reasons[0]
    trigger = replace(CERTAIN.trigger, target=6, sources=(0,))
    single = SingleSource(CERTAIN.family, 0, 6, 2.0, 4.0, trigger)
    decision = decided(one_ways=(way,), single_sources=(single,))
    assert (decision.level, decision.mode, decision.triggers) == ("backdoor", "one-to-one", (trigger,))
    assert "from class 0 (a) alone" in decision.reasons[0]
    elsewhere = decided(one_ways=(replace(way, source=3),), single_sources=(single,))
    assert (elsewhere.level, elsewhere.triggers) == ("suspicious", (trigger,))
    assert decided(one_ways=(replace(way, score=3.0),)).level == "clean"
