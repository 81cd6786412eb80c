# SPDX-License-Identifier: Apache-2.0
"""NFT on small networks built in code; what it does to real backdoors is measured in benchmarks/nft.py."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from patcher.calibrate import precision
from patcher.calibrate.classifier import Classifier
from patcher.calibrate.nft import method as nft
from patcher.calibrate.nft.masks import Masks
from patcher.calibrate.nft.mixup import mixup
from patcher.calibrate.nft.options import mask_floor
from patcher.calibrate.patched import patch_rewrite
from patcher.calibrate.run import Run
from patcher.calibrate.statistics import stream_moments
from patcher.calibrate.triggered import stamp, triggered_loss
from patcher.data.clean_set import CleanSet, split
from patcher.data.preprocess import Preprocess
from patcher.errors import InputError, NotApplicableError
from patcher.graph.sites import find_sites
from patcher.graph.weight_channels import mask_layers
from patcher.model.model import Model, read_model
from patcher.patch import Affine, Bias, Normalization, WeightMask
from patcher.triggers.file import write_triggers
from patcher.triggers.trigger import Trigger
from tests.tiny_models import activation_model, build, node, residual_model, weights_of

OPTIONS = nft.Options(steps=12, minibatch=16, check_every=4, epsilon=0.5)


def normalized_model() -> Model:
    """Conv, BatchNormalization, Relu, Conv, BatchNormalization, Relu, head."""
    rng = np.random.default_rng(3)
    extra = {"w2": rng.standard_normal((6, 6, 3, 3)).astype(np.float32)}
    for number in (1, 2):
        extra |= {f"{name}{number}": rng.uniform(0.5, 1.5, 6).astype(np.float32) for name in ("g", "b", "mean", "var")}
    nodes = [
        node("BatchNormalization", ["c1", "g1", "b1", "mean1", "var1"], ["n1"]),
        node("Relu", ["n1"], ["r1"]),
        node("Conv", ["r1", "w2"], ["c2"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c2", "g2", "b2", "mean2", "var2"], ["n2"]),
        node("Relu", ["n2"], ["act"]),
    ]
    return read_model(activation_model(nodes, extra))


FOLDED, NORMALIZED = read_model(residual_model()), normalized_model()


def classifier(model: Model) -> Classifier:
    return Classifier(model, Preprocess(), device=torch.device("cpu"))


def clean_set(model: Model, count: int = 60) -> CleanSet:
    """Random pictures under the model's own answers, so that accuracy is 1 before."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3, 8, 8), np.uint8)
    labels = classifier(model).logits(torch.from_numpy(pixels.astype(np.float32) / 255)).argmax(dim=1).numpy()
    fit, held_out = split(labels, np.random.default_rng(0))
    return CleanSet(pixels, labels, tuple("abcd"), fit, held_out, "0" * 64)


def channel_sites(model: Model):
    return tuple(site for site in find_sites(model) if site.kind == "channel")


def run(model: Model, options: nft.Options = OPTIONS, *, data: CleanSet | None = None, batch_size=128, seed=0):
    data = clean_set(model) if data is None else data
    return nft.calibrate(Run(classifier(model), seed, batch_size), channel_sites(model), data, options)


def build_masks(model: Model, *, seed: int = 1) -> Masks:
    """Masks at random values."""
    layers, _ = mask_layers(model, channel_sites(model))
    masks = Masks(classifier(model), layers, floor=(0.8, 0.5))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for mask in masks.parameters:
            mask.copy_(torch.rand(mask.shape, generator=generator))
    return masks


@pytest.mark.parametrize("statistics", ["keep", "reestimate"])
@pytest.mark.parametrize("mask", ["plain", "centred"])
@pytest.mark.parametrize("model", [FOLDED, NORMALIZED], ids=["folded", "normalized"])
def test_the_patch_says_what_the_masks_do(model: Model, mask: str, statistics: str) -> None:
    data, masks = clean_set(model), build_masks(model)
    if mask == "centred":
        masks.centre(data, data.fit, 128)
    if statistics == "reestimate":
        masks.keep_statistics(data, data.fit, 128)
        masks.reestimate(data, data.fit, 128)
    images = torch.from_numpy(data.images(data.held_out))
    found = classifier(model)
    with torch.no_grad():
        inside = found.logits(images, rewrite=masks.rewrite)
        patched = found.logits(images, rewrite=patch_rewrite(found, masks.corrections("mask")))
        before = found.logits(images)
    torch.testing.assert_close(patched, inside, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(before, inside, atol=1e-2)


def test_corrections_by_kind_of_layer() -> None:
    data = clean_set(NORMALIZED)
    masks = build_masks(NORMALIZED)
    masks.reestimate(data, data.fit, 128)
    assert [type(item) for item in masks.corrections("mask")] == [WeightMask, Normalization] * 2
    assert [item.initializer for item in masks.corrections("mask") if isinstance(item, WeightMask)] == ["g1", "g2"]
    data, masks = clean_set(FOLDED), build_masks(FOLDED)
    assert [type(item) for item in masks.corrections("mask")] == [WeightMask] * 2
    masks.centre(data, data.fit, 128)
    assert [type(item) for item in masks.corrections("mask")] == [WeightMask, Bias] * 2
    masks.keep_statistics(data, data.fit, 128)
    masks.reestimate(data, data.fit, 128)
    assert {type(item) for item in masks.corrections("mask")} <= {WeightMask, Bias, Affine}


@pytest.mark.parametrize("model", [FOLDED, NORMALIZED], ids=["folded", "normalized"])
def test_a_centred_mask_keeps_the_mean_of_a_channel(model: Model) -> None:
    data, masks = clean_set(model), build_masks(model)
    masks.centre(data, data.fit, 128)
    first = masks.layers[0].layer
    site = dataclasses.replace(channel_sites(model)[0], tensor=first.tensor)
    found = classifier(model)
    before, after = (
        stream_moments(found, [site], found.batches(data, data.fit, 16), rewrite=rewrite)[first.tensor]
        for rewrite in (None, masks.rewrite)
    )
    torch.testing.assert_close(after.mean, before.mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after.std.flatten(), before.std.flatten() * masks.parameters[0].double())


def test_reestimated_statistics_are_those_of_the_clean_images() -> None:
    data = clean_set(NORMALIZED)
    masks = Masks(classifier(NORMALIZED), mask_layers(NORMALIZED, channel_sites(NORMALIZED))[0], floor=(0.8, 0.5))
    for _ in range(2):  # the second layer sees the first one's new statistics in the second pass
        masks.reestimate(data, data.fit, 7)
    found = classifier(NORMALIZED)
    statistics = {item.tensor: item for item in masks.corrections("mask") if isinstance(item, Normalization)}
    with torch.no_grad():
        images = torch.from_numpy(data.images(data.fit))
        values = found.run(images, fetch=["c1", "c2"], rewrite=masks.rewrite)
    for inner, outer in (("c1", "n1"), ("c2", "n2")):
        mean, var = values[inner].mean((0, 2, 3)), values[inner].var((0, 2, 3), correction=0)
        np.testing.assert_allclose(statistics[outer].mean, mean.numpy(), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(statistics[outer].var, var.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("changes", [{}, {"mask": "plain", "bn_stats": "reestimate", "targets": "answers"}])
@pytest.mark.parametrize("model", [FOLDED, NORMALIZED], ids=["folded", "normalized"])
def test_what_is_kept_is_what_was_measured(model: Model, changes: dict[str, str]) -> None:
    found = run(model, dataclasses.replace(OPTIONS, **changes, learning_rate=5.0))
    data, plain = clean_set(model), classifier(model)
    hits = plain.hits(data, data.held_out, batch_size=128, rewrite=patch_rewrite(plain, found.corrections))
    assert found.held_out_after == pytest.approx(hits.float().mean().item())
    kept = next(point for point in found.curve if point["step"] == found.summary["kept_step"])
    assert kept["held_out_accuracy"] == pytest.approx(found.held_out_after)
    masks = [item.mask for item in found.corrections if isinstance(item, WeightMask)]
    assert changes or any((mask < 1).any() for mask in masks)
    for number, mask in enumerate(masks, start=1):
        assert mask_floor(number, 0.8, 0.5) - 1e-6 <= mask.min() <= mask.max() <= 1


def test_same_seed_same_bytes_and_the_batch_size_does_not_matter() -> None:
    options = dataclasses.replace(OPTIONS, learning_rate=1.0)
    first, again, cut, other = (run(FOLDED, options, **more) for more in ({}, {}, {"batch_size": 5}, {"seed": 1}))
    for one, two, three in zip(first.corrections, again.corrections, cut.corrections, strict=True):
        for name, value in vars(one).items():
            if isinstance(value, np.ndarray):
                assert value.tobytes() == getattr(two, name).tobytes()
                np.testing.assert_allclose(value, getattr(three, name), rtol=1e-3, atol=1e-4)
    assert first.corrections[0].mask.tobytes() != other.corrections[0].mask.tobytes()


def test_steps_in_bfloat16_are_decided_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_fast_bfloat16", lambda device: True)
    options = dataclasses.replace(OPTIONS, learning_rate=1.0)
    exact, reduced = run(FOLDED, options), run(FOLDED, dataclasses.replace(options, precision="auto"))
    data, plain = clean_set(FOLDED), classifier(FOLDED)
    hits = plain.hits(data, data.held_out, batch_size=128, rewrite=patch_rewrite(plain, reduced.corrections))
    assert reduced.held_out_after == pytest.approx(hits.float().mean().item())
    masks = [[item.mask for item in found.corrections if isinstance(item, WeightMask)] for found in (exact, reduced)]
    assert any((one != two).any() for one, two in zip(*masks, strict=True))
    for one, two in zip(*masks, strict=True):
        np.testing.assert_allclose(one, two, atol=0.1)


def trigger(target: int = 2) -> Trigger:
    """White pixels in a corner."""
    mask = np.zeros((1, 8, 8), np.float32)
    mask[:, 5:, 5:] = 1
    sources = tuple(label for label in range(4) if label != target)
    return Trigger("patch", target, sources, {"mask": mask, "pattern": np.ones((3, 8, 8), np.float32)}, (3, 8, 8))


def test_estimated_triggers_are_unlearned(tmp_path: Path) -> None:
    """One input channel of a linear detector drives the target; the purification loss finds and masks it."""
    detector = np.zeros((6, 3, 3, 3), np.float32)
    detector[5] = 1.0
    rng = np.random.default_rng(0)
    detector[:5] = 0.3 * rng.standard_normal((5, 3, 3, 3))
    head = np.concatenate([rng.standard_normal((4, 5)), [[0], [0], [30], [0]]], axis=1).astype(np.float32)
    proto = build(
        [
            node("Conv", ["image", "w", "b"], ["c"]),
            node("Relu", ["c"], ["r"]),
            node("GlobalMaxPool", ["r"], ["p"]),
            node("Flatten", ["p"], ["f"]),
            node("Gemm", ["f", "fc"], ["logits"], transB=1),
        ],
        {"w": detector, "b": np.array([0, 0, 0, 0, 0, -25], np.float32), "fc": head},
    )
    model = read_model(proto)
    data = clean_set(model)
    write_triggers([trigger()], tmp_path / "t.npz")
    found, triggers = classifier(model), [trigger()]
    before = triggered_loss(found, data, data.held_out, triggers, batch_size=128)
    options = nft.Options(
        triggers=str(tmp_path / "t.npz"), steps=60, minibatch=32, learning_rate=0.05, check_every=10, augment=False
    )
    result = run(model, options, data=data)
    rewrite = patch_rewrite(found, result.corrections)
    after = triggered_loss(found, data, data.held_out, triggers, batch_size=50, rewrite=rewrite)
    assert after < 1 < before
    assert result.satisfied
    assert result.corrections[0].mask.ravel()[5] == result.corrections[0].mask.min()


def test_a_learning_rate_that_costs_too_much_is_lowered() -> None:
    high, low = (run(NORMALIZED, dataclasses.replace(OPTIONS, learning_rate=rate, epsilon=0.0)) for rate in (5.0, 1e-4))
    assert high.satisfied
    assert high.summary["learning_rate"] in (5 / 4, 5 / 16, 5 / 64)
    assert low.satisfied
    assert "learning_rate" not in low.summary


def test_one_image_a_class_keeps_the_last_iterate() -> None:
    data = clean_set(FOLDED)
    alone = dataclasses.replace(data, fit=np.arange(8), held_out=np.arange(0))
    found = run(FOLDED, dataclasses.replace(OPTIONS, learning_rate=5.0), data=alone)
    assert found.summary["kept_step"] == OPTIONS.steps
    assert "nothing is held out" in found.summary["decided_on"]


def test_a_model_whose_only_layer_makes_the_scores() -> None:
    nodes = [node("Flatten", ["image"], ["f"]), node("Gemm", ["f", "w"], ["logits"])]
    model = read_model(build(nodes, weights_of({"w": (192, 4)})))
    with pytest.raises(NotApplicableError, match="classes"):
        run(model)


def test_stamping_follows_the_sources() -> None:
    labels = torch.tensor([0, 1, 2, 3])
    images = torch.zeros(4, 3, 8, 8)
    first = dataclasses.replace(trigger(2), sources=(0, 2))
    second = dataclasses.replace(
        trigger(3), sources=(1,), values={**trigger(3).values, "pattern": np.full((3, 8, 8), 0.5, np.float32)}
    )
    stamped, carries = stamp(images, labels, [first, second], np.random.default_rng(0))
    assert carries.tolist() == [True, True, False, False]
    assert [float(image.max()) for image in stamped] == [1.0, 0.5, 0.0, 0.0]
    assert not images.any(), "the clean images stay clean"


def test_triggers_for_other_pictures_are_refused(tmp_path: Path) -> None:
    wrong = dataclasses.replace(
        trigger(),
        values={"mask": np.ones((1, 4, 4), np.float32), "pattern": np.ones((3, 4, 4), np.float32)},
        shape=(3, 4, 4),
    )
    write_triggers([wrong], tmp_path / "t.npz")
    with pytest.raises(InputError, match="scan again"):
        run(FOLDED, dataclasses.replace(OPTIONS, triggers=str(tmp_path / "t.npz")))
    write_triggers([dataclasses.replace(trigger(), target=7)], tmp_path / "t.npz")
    with pytest.raises(InputError, match="classes 0 to 3"):
        run(FOLDED, dataclasses.replace(OPTIONS, triggers=str(tmp_path / "t.npz")))


@given(st.integers(1, 12), st.floats(0.1, 4), st.integers(0, 1000))
def test_mixup_keeps_pixels_and_targets_together(count: int, alpha: float, seed: int) -> None:
    targets = torch.eye(count)
    images = targets.reshape(count, count, 1, 1)
    mixed, shares = mixup(images, targets, alpha, np.random.default_rng(seed))
    torch.testing.assert_close(mixed.flatten(1), shares)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(count))
    assert mixup(images, targets, 0, np.random.default_rng(seed))[0] is images


def test_the_floor_falls_with_depth() -> None:
    assert mask_floor(1, 0.8, 0.5) == pytest.approx(0.8 * np.exp(-0.5))
    assert mask_floor(4, 0.8, 0.5) == pytest.approx(0.8 * np.exp(-2))


@pytest.mark.parametrize(
    "values", [{"epsilon": 1.5}, {"steps": -1}, {"minibatch": 0}, {"learning_rate": 0.0}, {"mixup": -1}, {"floor": 2}]
)
def test_bad_options_name_their_flag(values: dict[str, float]) -> None:
    with pytest.raises(InputError, match="--" + next(iter(values)).replace("_", "-")):
        nft.Options(**values)  # type: ignore[arg-type]
