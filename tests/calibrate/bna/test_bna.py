# SPDX-License-Identifier: Apache-2.0
"""BNA on the digits sample: its backdoor is a checkerboard in the lower right corner, target 7."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from patcher.calibrate.bna import method as bna
from patcher.calibrate.bna.fit import learned
from patcher.calibrate.bna.normalization import reestimate
from patcher.calibrate.bna.objective import Objective
from patcher.calibrate.classifier import Classifier
from patcher.calibrate.patched import run_branch
from patcher.calibrate.run import Run
from patcher.calibrate.statistics import stream_moments
from patcher.calibrate.triggered import TriggerSet
from patcher.data.clean_set import CleanSet, read_clean_set
from patcher.data.preprocess import resolve_preprocess
from patcher.errors import CalibrationError, InputError
from patcher.graph.site import Site
from patcher.graph.sites import find_sites
from patcher.model.model import read_model
from patcher.patch import Realignment
from patcher.triggers.file import write_triggers
from patcher.triggers.trigger import Trigger

SAMPLES = Path(__file__).resolve().parents[3] / "samples"
TARGET = 7


def checkerboard(target: int = TARGET, sources: tuple[int, ...] = ()) -> Trigger:
    mask, pattern = np.zeros((1, 8, 8), np.float32), np.zeros((1, 8, 8), np.float32)
    mask[0, 6:, 6:] = 1
    pattern[0, 6, 6] = pattern[0, 7, 7] = 1
    return Trigger(
        "patch",
        target,
        sources or tuple(set(range(10)) - {target}),
        {"mask": mask, "pattern": pattern},
        pattern.shape,
    )


@cache
def sample() -> tuple[Classifier, CleanSet, tuple[Site, ...]]:
    model = read_model(SAMPLES / "digits.onnx")
    preprocess = resolve_preprocess(model)
    clean_set = read_clean_set(SAMPLES / "clean", model, preprocess)
    sites = tuple(site for site in find_sites(model) if site.kind == "channel")
    return Classifier(model, preprocess, device=torch.device("cpu")), clean_set, sites


def calibrate(tmp_path: Path, triggers: list[Trigger], **options):
    classifier, clean_set, sites = sample()
    write_triggers(triggers, tmp_path / "triggers.npz")
    given = bna.Options(triggers=str(tmp_path / "triggers.npz"), **options)
    return bna.calibrate(Run(classifier, 0, 64), sites, clean_set, given)


def attacked() -> tuple[torch.Tensor, torch.Tensor]:
    with np.load(SAMPLES / "triggered.npz") as file:
        pixels = torch.from_numpy(file["images"].transpose(0, 3, 1, 2).astype(np.float32) / 255)
        labels = torch.from_numpy(file["labels"])
    return pixels[labels != TARGET], labels[labels != TARGET]


def state_of(batch_size: int = 64, *, triggered: bool = True):
    classifier, clean_set, sites = sample()
    chosen = bna.normalization_sites(classifier, sites, clean_set)
    attack = TriggerSet([checkerboard()], 10)
    indices = clean_set.fit[clean_set.labels[clean_set.fit] != TARGET]

    def batches():
        found = classifier.batches(clean_set, indices, batch_size)
        return attack.batches(found) if triggered else found

    clean = stream_moments(classifier, chosen, classifier.batches(clean_set, indices, batch_size))
    return chosen, attack, clean, reestimate(classifier, chosen, clean, batches, lambda done, total: None)


def test_triggered_images_get_their_class_and_are_flagged(tmp_path: Path) -> None:
    found = calibrate(tmp_path, [checkerboard()], steps=40)
    assert found.satisfied
    classifier, _, _ = sample()
    pixels, labels = attacked()
    scores, flags, first = run_branch(classifier, found.corrections[0], pixels)
    assert (first["logits"].argmax(1) == TARGET).float().mean() > 0.95
    assert (scores.argmax(1) == TARGET).float().mean() < 0.1
    assert (scores.argmax(1) == labels).float().mean() > 0.8
    assert flags.float().mean() > 0.9


def test_clean_images_are_rarely_flagged(tmp_path: Path) -> None:
    found = calibrate(tmp_path, [checkerboard()], steps=20)
    classifier, _, _ = sample()
    with np.load(SAMPLES / "test.npz") as file:
        pixels = torch.from_numpy(file["images"].transpose(0, 3, 1, 2).astype(np.float32) / 255)
    _, flags, first = run_branch(classifier, found.corrections[0], pixels)
    assert flags.float().mean() < 0.03
    assert not flags[first["logits"].argmax(1) != TARGET].any()


@pytest.mark.parametrize("divergence", ["tv", "js", "kl"])
@pytest.mark.parametrize("answer", [0.0, 1.0])
def test_mean_deviation_and_both_bounds_get_gradients(divergence: str, answer: float) -> None:
    classifier, clean_set, _ = sample()
    sites, attack, clean, state = state_of()
    with torch.no_grad():  # bounds that bind somewhere: at the clean extremes the gradient of most is zero
        for item in state.values():
            item.upper.clamp_(max=1.0)
            item.lower.clamp_(min=-1.0)
    objective = Objective(classifier, sites, state, attack, bna.Options(divergence=divergence, answer=answer))
    objective.set_reference(clean, classifier.batches(clean_set, clean_set.fit[:64], 64))
    images, labels = next(classifier.batches(clean_set, clean_set.fit[:64], 64))
    objective(images, labels).backward()
    for name, item in state.items():
        for part in ("mean", "log_std", "upper", "lower"):
            gradient = getattr(item, part).grad
            assert gradient is not None, (name, part)
            assert bool(gradient.isfinite().all()), (name, part)
            assert float(gradient.abs().max()) > 0, (name, part)


def test_what_learn_moves() -> None:
    _, _, _, state = state_of()
    assert len(learned(state, "omega")) == len(state)
    assert len(learned(state, "all")) == 4 * len(state)


def test_on_clean_images_the_start_is_the_identity() -> None:
    classifier, clean_set, _ = sample()
    _, _, _, state = state_of(triggered=False)
    images, _ = next(classifier.batches(clean_set, clean_set.fit[:32], 32))
    with torch.no_grad():
        torch.testing.assert_close(
            classifier.logits(images, rewrite=state), classifier.logits(images), rtol=1e-3, atol=1e-2
        )


def test_the_start_does_not_depend_on_the_batch_size() -> None:
    first, second = state_of(7)[3], state_of(320)[3]
    for name, item in first.items():
        torch.testing.assert_close(item.mean, second[name].mean, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(item.log_std, second[name].log_std, rtol=1e-4, atol=1e-4)


def test_the_affine_form_is_the_same_map() -> None:
    _, _, _, state = state_of()
    for name, item in state.items():
        value = torch.randn(4, item.mean.shape[1], 3, 3) * 3
        scale, shift, upper, lower = item.as_affine()
        mapped = torch.maximum(torch.minimum(scale * value + shift, upper), lower)
        torch.testing.assert_close(mapped, item(value).detach(), rtol=1e-4, atol=1e-4, msg=name)


def test_two_targets_share_one_branch(tmp_path: Path) -> None:
    found = calibrate(tmp_path, [checkerboard(7), checkerboard(3, (1, 2))], steps=0)
    branch = found.corrections[0]
    assert branch.targets == (3, 7)
    assert all(isinstance(item, Realignment) and item.scale.shape[0] == 2 for item in branch.corrections)
    assert [item["sources"] for item in found.summary["targets"]] == [[1, 2], [0, 1, 2, 3, 4, 5, 6, 8, 9]]


def test_the_same_seed_gives_the_same_patch(tmp_path: Path) -> None:
    first, second = (calibrate(tmp_path, [checkerboard()], steps=3, check_every=1).corrections[0] for _ in range(2))
    for left, right in zip(first.corrections, second.corrections, strict=True):
        np.testing.assert_array_equal(left.scale, right.scale)
        np.testing.assert_array_equal(left.upper, right.upper)


def test_the_classifier_layer_is_no_normalization_site() -> None:
    classifier, clean_set, sites = sample()
    chosen = bna.normalization_sites(classifier, sites, clean_set)
    assert len(chosen) == len(sites) - 1
    assert all(site.tensor == site.normalization for site in chosen)


def test_refusals(tmp_path: Path) -> None:
    wrong = replace(
        checkerboard(),
        values={"mask": np.ones((1, 4, 4), np.float32), "pattern": np.ones((1, 4, 4), np.float32)},
        shape=(1, 4, 4),
    )
    with pytest.raises(InputError, match="triggers for pictures of"):
        calibrate(tmp_path, [wrong])
    with pytest.raises(InputError, match="classes 0 to 9"):
        calibrate(tmp_path, [checkerboard(12)])
    with pytest.raises(InputError, match="--epsilon"):
        bna.Options(epsilon=1.0)
    classifier, clean_set, sites = sample()
    only = replace(clean_set, fit=clean_set.fit[clean_set.labels[clean_set.fit] == TARGET])
    write_triggers([checkerboard()], tmp_path / "t.npz")
    options = bna.Options(triggers=str(tmp_path / "t.npz"))
    with pytest.raises(CalibrationError, match="no clean image of the source classes"):
        bna.calibrate(Run(classifier, 0, 64), sites, only, options)


def test_several_triggers_of_a_class_share_its_images_whatever_the_batch() -> None:
    _, clean_set, _ = sample()
    first = checkerboard()
    second = replace(first, values={**first.values, "pattern": 1 - first.values["pattern"]})
    attack = TriggerSet([first, second], 10)
    images, labels = torch.from_numpy(clean_set.images(np.arange(64))), torch.from_numpy(clean_set.labels[:64])
    together = attack.put(images, labels)
    alone = torch.cat([attack.put(images[row : row + 1], labels[row : row + 1]) for row in range(64)])
    assert torch.equal(together, alone)
    used = [bool((together == trigger.apply(images)).flatten(1).all(1).any()) for trigger in (first, second)]
    assert used == [True, True]
