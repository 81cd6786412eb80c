# SPDX-License-Identifier: Apache-2.0
"""NONE on the digits sample: what it finds, what it repairs, and that a killed run goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import patcher
from patcher.calibrate.audit.activations import Neuron, pre_activation, stream_maxima
from patcher.calibrate.classifier import Classifier
from patcher.calibrate.none.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from patcher.calibrate.none.reinitialization import as_rewrite, reinitialize
from patcher.calibrate.run import Run
from patcher.calibrate.statistics import stream_moments
from patcher.data.clean_set import read_clean_set
from patcher.data.preprocess import resolve_preprocess
from patcher.errors import InputError
from patcher.graph.sites import find_sites
from patcher.graph.weight_channels import find_layers
from patcher.model.model import read_model

pytestmark = pytest.mark.filterwarnings("ignore:.*lr_scheduler.*")
SAMPLES = Path(__file__).resolve().parents[3] / "samples"
MODEL, TRAIN, CLEAN = (SAMPLES / name for name in ("digits.onnx", "train.npz", "clean"))


@pytest.fixture(scope="module")
def digits():
    model = read_model(MODEL)
    preprocess = resolve_preprocess(model)
    classifier = Classifier(model, preprocess, device=torch.device("cpu"))
    sites = [site for site in find_sites(model) if site.kind == "channel"]
    return classifier, sites, read_clean_set(TRAIN, model, preprocess)


@pytest.fixture(scope="module")
def hardened(tmp_path_factory):
    folder = tmp_path_factory.mktemp("none")
    result = patcher.harden(
        MODEL,
        method="none",
        train_dir=str(TRAIN),
        clean_dir=CLEAN,
        triggered=SAMPLES / "triggered.npz",
        output=folder / "out.onnx",
        report_dir=folder / "report",
        device="cpu",
    )
    return result, folder


def test_poisoned_images_are_found(hardened):
    poisoned = np.flatnonzero(np.load(TRAIN)["poisoned"])
    found = [item.index for item in hardened[0].calibration.findings.suspects]
    assert len(set(found) & set(poisoned)) >= 0.95 * len(poisoned)
    assert len(set(found) & set(poisoned)) >= 0.95 * len(found)


def test_the_trigger_is_gone_and_accuracy_stays(hardened):
    document = hardened[0].report.as_json()
    assert document["before"]["attack"]["ASR"]["value"] >= 0.99
    assert document["after"]["attack"]["ASR"]["value"] <= 0.03
    assert document["after"]["held_out"]["value"] >= document["before"]["held_out"]["value"] - 0.03
    assert document["before"]["held_out"]["count"] == 400


def test_the_graph_is_the_same_but_for_values(hardened):
    before, after = onnx.load(MODEL).graph, onnx.load(hardened[1] / "out.onnx").graph
    assert [node.op_type for node in before.node] == [node.op_type for node in after.node]
    kinds = [{(item.name, item.data_type, tuple(item.dims)) for item in graph.initializer} for graph in (before, after)]
    assert kinds[0] == kinds[1]


def test_the_report_folder_has_the_list_and_the_sheet_and_no_checkpoint_is_left(hardened):
    folder = hardened[1]
    lines = (folder / "report" / "suspects.csv").read_text().splitlines()
    assert lines[0] == "image,class,score,likely_class,neurons"
    assert len(lines) - 1 == len(hardened[0].calibration.findings.suspects)
    assert (folder / "report" / "suspects.png").stat().st_size > 500
    assert not list(folder.glob("*.checkpoint"))


def test_paths_and_resume_are_not_in_the_patch(hardened):
    assert not {"train_dir", "checkpoint", "resume"} & set(hardened[0].patch.options)


def test_batch_normalization_statistics_stay(hardened):
    names = {item.initializer for item in hardened[0].patch.corrections}
    assert names
    assert not any("running" in name for name in names)


def test_clean_images_are_not_suspected_and_the_model_is_left_alone(tmp_path):
    result = patcher.harden(MODEL, method="none", train_dir=str(CLEAN), output=tmp_path / "out.onnx", device="cpu")
    assert not result.calibration.findings.suspects
    assert not result.patch.corrections
    assert (tmp_path / "out.onnx").read_bytes() == MODEL.read_bytes()


def test_without_clean_images_the_images_not_suspected_decide():
    result = patcher.harden(MODEL, method="none", train_dir=str(TRAIN), epochs=1, rounds=1, epsilon=0.5, device="cpu")
    document = result.report.as_json()
    assert document["before"]["fit"]["count"] == 900 - len(result.calibration.findings.suspects)
    assert document["before"]["held_out"]["count"] == 0
    assert document["method"]["decided_on"] == "training images that are not suspected"


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({}, "--train-dir"),
        ({"train_dir": str(TRAIN), "separability": 2}, "--separability"),
        ({"train_dir": str(TRAIN), "epochs": 0}, "--epochs"),
        ({"train_dir": str(TRAIN), "resume": True}, "--checkpoint"),
    ],
)
def test_what_cannot_be_used_is_refused(options, flag):
    with pytest.raises(InputError, match=flag):
        patcher.harden(MODEL, method="none", **options)


def test_other_methods_still_need_clean_images():
    with pytest.raises(InputError, match="--clean-dir"):
        patcher.harden(MODEL, method="unit")


@pytest.mark.parametrize("batch_size", [7, 900])
def test_maxima_do_not_depend_on_the_batch(digits, batch_size):
    classifier, sites, training_set = digits
    images = np.arange(0, 900, 9)
    found = stream_maxima(Run(classifier, 0, batch_size), sites, training_set, images)
    with torch.no_grad():
        values = classifier.run(classifier.tensor(training_set.images(images)), fetch=[pre_activation(sites[0])])
    wanted = values[pre_activation(sites[0])].amax((2, 3)).T.numpy()
    assert found.values[: sites[0].channels][:, images] == pytest.approx(wanted, abs=1e-5)
    assert (found.values[:, 1] == 0).all()
    assert found.neurons[0] == Neuron(pre_activation(sites[0]), 0)


@pytest.mark.parametrize("bare", [False, True])
def test_fresh_neurons_keep_mean_and_deviation(digits, bare):
    """With a BatchNormalization behind, and without one in the layer description (a folded graph with bias)."""
    classifier, sites, training_set = digits
    layers = find_layers(classifier.model, sites)
    layer = layers[0]
    given = classifier.graph.initializers
    names = {item.weight.initializer for item in layers if item.weight} | {layer.scale, layer.shift}
    parameters = {name: given[name].clone() for name in names if name and not (bare and name == layer.shift)}
    images = np.arange(200)
    site = sites[0]
    tensor = pre_activation(site)
    # The layer has 16 channels, of which an eighth may start anew: the third is one too many.
    chosen = [Neuron(tensor, channel) for channel in (0, 5, 7)]

    def moments(rewrite):
        from dataclasses import replace

        batches = classifier.batches(training_set, images, 100)
        return stream_moments(classifier, [replace(site, tensor=tensor)], batches, rewrite=rewrite)[tensor]

    before = moments({})
    done = reinitialize(
        classifier, layers, parameters, chosen, training_set, images, batch_size=100, rng=np.random.default_rng(0)
    )
    after = moments(as_rewrite(parameters))
    assert done == 2
    assert after.std.flatten() == pytest.approx(before.std.flatten(), rel=1e-3, abs=1e-5)
    if not bare:
        assert after.mean.flatten() == pytest.approx(before.mean.flatten(), rel=1e-3, abs=1e-4)
    weight = layer.weight.initializer
    changed = (parameters[weight] != given[weight]).flatten(1).any(1)
    assert changed.nonzero().flatten().tolist() == [0, 5]


def test_a_checkpoint_of_another_run_or_kind_is_refused(tmp_path):
    path = tmp_path / "state"
    write_checkpoint(str(path), "a", Checkpoint({"round": 1}, {"x": torch.arange(3.0)}))
    found = read_checkpoint(str(path), "a")
    assert found.values == {"round": 1}
    assert found.tensors["x"].tolist() == [0, 1, 2]
    with pytest.raises(InputError, match="another run"):
        read_checkpoint(str(path), "b")
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="not a checkpoint"):
        read_checkpoint(str(path), "a")
    assert read_checkpoint(str(tmp_path / "missing"), "a") is None


# A run of the library with torch loaded once: it forks a child for each life of the run, kills it with
# SIGKILL at a random moment while it works, and lets the next child resume.
_KILLER = """
import os, signal, sys, time, random, pathlib
import torch
torch.set_num_threads(1)
import patcher, patcher.commands.harden, patcher.calibrate.none.method

model, train, folder = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])

def live(output, delay=None):
    child = os.fork()
    if not child:
        try:
            patcher.harden(model, method="none", train_dir=train, output=output, resume=True, epochs=2, rounds=2,
                           epsilon=0.5, device="cpu")
            os._exit(0)
        except BaseException as error:
            print(type(error).__name__, error, flush=True)
            os._exit(1)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

began = time.perf_counter()
assert live(folder / "plain.onnx") == 0
length = time.perf_counter() - began
wanted = (folder / "plain.onnx").read_bytes()
chance, output, kills, stages = random.Random(0), folder / "out.onnx", 0, set()
checkpoint = pathlib.Path(f"{output}.checkpoint")
while kills < 10:
    output.unlink(missing_ok=True)
    code, lives = 1, 0
    while code:
        last = kills >= 10 or lives >= 3
        code = live(output, None if last else chance.uniform(0.05, 0.9) * length)
        lives += 1
        if code == -signal.SIGKILL:
            kills += 1
            stages.add(checkpoint.exists())
            assert not output.exists() or output.read_bytes() == wanted, "half a model"
        else:
            assert code == 0, code
    assert output.read_bytes() == wanted, "another result"
    assert not checkpoint.exists()
assert stages == {True, False}, stages
print("kills", kills)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="fork and SIGKILL")
def test_killed_at_random_points_and_resumed_gives_the_same_file(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    began = time.perf_counter()
    command = [sys.executable, "-c", _KILLER, str(MODEL), str(TRAIN), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert "kills 10" in done.stdout
    assert time.perf_counter() - began < 900
