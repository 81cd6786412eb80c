# SPDX-License-Identifier: Apache-2.0
"""Transformers that compute with tokens first: no row of such a tensor is an image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import patcher
from patcher.calibrate.audit.activations import judged_sites
from patcher.calibrate.classifier import Classifier
from patcher.calibrate.rows import row_tensors
from patcher.data.clean_set import CleanSet
from patcher.data.preprocess import resolve_preprocess
from patcher.graph.sites import find_sites
from patcher.model.model import read_model
from patcher.triggers.file import write_triggers
from patcher.triggers.trigger import Trigger
from tests.tiny_models import images, tokens_first_model

SHAPE = (3, 8, 8)


def classifier_of(proto):
    model = read_model(proto)
    return Classifier(model, resolve_preprocess(model), device=torch.device("cpu"))


def clean_set():
    return CleanSet(images(8, SHAPE), np.arange(8) % 4, ("a", "b", "c", "d"), np.arange(4), np.arange(4, 8), "")


def test_tensors_with_a_row_an_image():
    proto = tokens_first_model()
    kept = row_tensors(classifier_of(proto), clean_set(), ["a", "r", "c", "q", "b", "s"])
    assert kept == {"b", "s"}


def test_a_fixed_batch():
    proto = tokens_first_model(image=(2, *SHAPE), outputs=(("logits", (2, 4)),))
    assert row_tensors(classifier_of(proto), clean_set(), ["r", "q", "b"]) == {"b"}


def test_an_audit_judges_neurons_of_images():
    proto = tokens_first_model()
    classifier = classifier_of(proto)
    sites = [site for site in find_sites(classifier.model) if site.kind == "channel" and site.tensor in "abc"]
    assert {site.tensor for site in sites} == {"a", "b", "c"}
    assert [site.tensor for site in judged_sites(classifier, sites, clean_set())] == ["b"]


@pytest.mark.parametrize("method", ["bna", "unit"])
def test_what_looks_at_single_images_leaves_them_out(method, tmp_path):
    proto = tokens_first_model()
    np.savez(tmp_path / "clean.npz", images=images(80, SHAPE), labels=np.arange(80) % 4)
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    values = {"mask": np.zeros((1, 8, 8), np.float32), "pattern": np.ones(SHAPE, np.float32)}
    values["mask"][0, :2, :2] = 1
    write_triggers([Trigger("patch", 3, (0, 1, 2), values, SHAPE)], tmp_path / "triggers.npz")
    own = {"triggers": str(tmp_path / "triggers.npz")} if method == "bna" else {"flag": True, "false_alarms": 0.1}
    result = patcher.harden(
        tmp_path / "model.onnx",
        clean_dir=tmp_path / "clean.npz",
        method=method,
        output=tmp_path / "hardened.onnx",
        report_dir=tmp_path / "report",
        steps=4,
        epsilon=0.9,
        accuracy_floor=0.0,
        min_agreement=0.0,
        **own,
    )
    (correction,) = result.patch.corrections
    parts = correction.corrections if method == "bna" else correction.sites
    assert [part.tensor for part in parts] == (["b"] if method == "bna" else ["s"])
