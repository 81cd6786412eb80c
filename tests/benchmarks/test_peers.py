# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from benchmarks.peers import anp, fine_tuning, unlearning
from benchmarks.peers.__main__ import PEERS, table
from benchmarks.peers.weights import make_setting
from patcher.calibrate.classifier import Classifier
from patcher.data.clean_set import read_clean_set
from patcher.data.preprocess import resolve_preprocess
from patcher.model.model import read_model

SAMPLES = Path(__file__).parents[2] / "samples"


@pytest.fixture
def setting(monkeypatch):
    """The sample, and peers that take few steps."""
    monkeypatch.setattr(anp, "_STEPS", 3)
    monkeypatch.setattr(fine_tuning, "_EPOCHS", 2)
    monkeypatch.setattr(unlearning, "_EPOCHS", 1)
    model = read_model(SAMPLES / "digits.onnx")
    preprocess = resolve_preprocess(model)
    clean_set = read_clean_set(SAMPLES / "clean", model, preprocess, seed=0, limit_per_class=10)
    return make_setting(Classifier(model, preprocess, device=torch.device("cpu")), clean_set, 0)


@pytest.mark.parametrize("peer", PEERS)
def test_what_was_trained_is_what_the_file_computes(setting, peer, tmp_path):
    PEERS[peer](setting)
    setting.write(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    images = setting.clean_set.images(np.arange(8))
    wanted = setting.classifier.logits(setting.classifier.tensor(images), rewrite=setting.rewrite).detach().numpy()
    found = session.run(None, {session.get_inputs()[0].name: setting.classifier.preprocess.to_input(images)})[0]
    np.testing.assert_allclose(found - found.mean(1, keepdims=True), wanted - wanted.mean(1, keepdims=True), atol=1e-3)
    originals = setting.classifier.graph.initializers
    if peer in ("ft", "ft-sam", "i-bau"):
        assert all(not torch.equal(value, originals[name]) for name, value in setting.weights.items())


def test_sharpness_aware_steps_go_uphill_first_and_come_back(setting):
    weights = [torch.tensor([3.0, 0.0], requires_grad=True), torch.tensor([[4.0]], requires_grad=True)]
    moved = fine_tuning._climb(weights, (torch.tensor([1.0, 5.0]), torch.tensor([[1.0]])), rho=2.0)
    np.testing.assert_allclose(moved[0].numpy(), [2 / 5 * 9, 0.0], rtol=1e-6)
    np.testing.assert_allclose(weights[1].detach().numpy(), [[4 + 2 / 5 * 16]], rtol=1e-6)


def test_pruning_costs_no_more_than_a_point_of_held_out_accuracy(setting):
    before = setting.accuracy(setting.clean_set.deciding)
    anp.prune(setting)
    assert setting.accuracy(setting.clean_set.deciding) >= before - 0.01


def test_the_table_tells_the_means_and_the_worst():
    def row(name, method, acc, asr=None, images=500):
        scores = {"acc": acc} if asr is None else {"acc": acc, "asr": asr, "sia": 0.5}
        return {"name": name, "method": method, "images": images, "cpu_s": 3.0} | scores

    rows = [row("a", "none", 0.8, 1.0, 0), row("b", "none", 0.8, 1.0, 0), row("c", "none", 0.8, None, 0)]
    rows += [row("a", "ft", 0.79, 0.1), row("b", "ft", 0.77, 0.3), row("c", "ft", 0.78)]
    assert "| ft | 2 | 20.0 | 30.0 | 2.0 | 50.0 | 2.0 | 3 |" in table(rows)
