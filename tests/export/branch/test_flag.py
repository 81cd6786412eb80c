# SPDX-License-Identifier: Apache-2.0
"""The run-time flag: every form equals PyTorch row by row, and rows do not know of one another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patcher.calibrate.classifier import Classifier
from patcher.calibrate.flag.fit import fit_flag, quantile_between
from patcher.calibrate.patched import excess_of, hangs_on_rounding, run_flag
from patcher.calibrate.run import Run
from patcher.calibrate.statistics import stream_moments
from patcher.data.clean_set import CleanSet
from patcher.data.preprocess import resolve_preprocess
from patcher.errors import UnsupportedGraphError
from patcher.export import apply_guard, apply_patch, check_guard_parity, check_parity, neutral_patch
from patcher.export.parity.parity import LEVELS, run_model
from patcher.graph.sites import find_sites
from patcher.model.model import Model, read_model
from patcher.patch import Flag, Patch, UpperBound, read_patch, write_patch
from patcher.runtime import OptimizationLevel, create_session
from patcher.two_files import EXCESS_OUTPUT, FLAG_OUTPUT, SCORE_OUTPUT, SCORE_TOLERANCE, TwoFileSession
from tests.tiny_models import RESIDUAL_SHAPES, build, images, residual_nodes, weights_of

FIXED = {"image": (4, 3, 8, 8), "outputs": (("logits", (4, 4)),)}
CLEAN = images(96, seed=3)
# Brighter than anything clean: some of these leave the usual range.
MIXED = np.concatenate([images(48, seed=5), np.clip(images(16, seed=6) * 3, 0, 1)])


def tiny(**options) -> Model:
    return read_model(build(residual_nodes(), weights_of(RESIDUAL_SHAPES), **options))


def clean_set() -> CleanSet:
    labels = np.arange(len(CLEAN)) % 4
    return CleanSet(CLEAN, labels, ("a", "b", "c", "d"), np.arange(64), np.arange(64, 96), "")


def fitted(model: Model, *, form: str = "if", false_alarms: float = 0.1) -> tuple[Classifier, Flag]:
    classifier = Classifier(model, resolve_preprocess(model), device=torch.device("cpu"))
    sites = [site for site in find_sites(model) if site.kind == "activation"]
    data, run = clean_set(), Run(classifier, 0, 32)
    moments = stream_moments(classifier, sites, classifier.batches(data, data.fit, 32))
    bounds = [
        UpperBound(site.tensor, (moments[site.tensor].mean + moments[site.tensor].std).float().numpy())
        for site in sites
    ]
    flag, _ = fit_flag(run, data, moments, bounds, false_alarms=false_alarms, form=form)  # type: ignore[arg-type]
    return classifier, flag


def patch_of(model: Model, flag: Flag) -> Patch:
    return Patch("unit", model.sha256, (flag,))


def decided(classifier: Classifier, flag: Flag, pixels: np.ndarray) -> np.ndarray:
    """Without images that hang on rounding."""
    return pixels[~hangs_on_rounding(classifier, flag, classifier.tensor(pixels)).numpy()]


def expected(classifier: Classifier, flag: Flag, pixels: np.ndarray) -> dict[str, np.ndarray]:
    scores, unusual, flags = run_flag(classifier, flag, classifier.tensor(pixels))
    return {"logits": scores.numpy(), SCORE_OUTPUT: unusual.numpy(), FLAG_OUTPUT: flags.numpy()}


@pytest.mark.parametrize("form", ["if", "where"])
@pytest.mark.parametrize("options", [{}, {"opset": 11}, {"opset": 18}, FIXED], ids=str)
def test_one_file_equals_pytorch_at_both_levels(form: str, options: dict) -> None:
    model = tiny(**options)
    classifier, flag = fitted(model, form=form)
    pixels = decided(classifier, flag, MIXED)
    wanted = expected(classifier, flag, pixels)
    assert wanted[FLAG_OUTPUT].any()
    assert not wanted[FLAG_OUTPUT].all()
    patch = patch_of(model, flag)
    hardened = apply_patch(model, patch)
    assert [item.name for item in hardened.graph.output][-2:] == [SCORE_OUTPUT, FLAG_OUTPUT]
    check_parity(model, hardened, apply_patch(model, neutral_patch(model, patch)), [pixels], expected=wanted)


def test_half_precision() -> None:
    model = read_model(
        build(residual_nodes(), weights_of(RESIDUAL_SHAPES, dtype=np.float16), elem_type=onnx.TensorProto.FLOAT16)
    )
    classifier, flag = fitted(model)
    pixels = decided(classifier, flag, MIXED)
    found = run_model(apply_patch(model, patch_of(model, flag)), model, [pixels.astype(np.float16)])
    wanted = expected(classifier, flag, pixels)
    assert found[SCORE_OUTPUT].dtype == np.float32
    near = np.abs(wanted[SCORE_OUTPUT] - flag.threshold) < 1
    assert (found[FLAG_OUTPUT] == wanted[FLAG_OUTPUT])[~near].all()


@pytest.mark.parametrize("options", [{}, FIXED], ids=str)
def test_two_files_equal_pytorch(options: dict) -> None:
    model = tiny(**options)
    classifier, flag = fitted(model, form="two-files")
    pixels = decided(classifier, flag, MIXED)
    patch = patch_of(model, flag)
    plain, guard = apply_patch(model, patch), apply_guard(model, patch)
    assert [item.name for item in plain.graph.output][-1] == EXCESS_OUTPUT
    neutral = apply_guard(model, neutral_patch(model, patch))
    assert guard is not None
    assert neutral is not None
    check_guard_parity(model, plain, guard, neutral, pixels, expected(classifier, flag, pixels))
    session = TwoFileSession(create_session(plain.SerializeToString()), create_session(guard.SerializeToString()))
    assert session.output_names == ["logits", SCORE_OUTPUT, FLAG_OUTPUT]


@pytest.mark.parametrize("size", [1, 7, 64])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("form", ["if", "where", "two-files"])
def test_every_row_equals_pytorch_whatever_its_batch(form: str, level: OptimizationLevel, size: int) -> None:
    model = tiny()
    classifier, flag = fitted(model, form=form)
    pixels = decided(classifier, flag, np.concatenate([MIXED, MIXED[::-1] * 0.9]))[: 64 if size == 64 else 21]
    assert len(pixels) % size == 0
    patch = patch_of(model, flag)
    session: Any = create_session(apply_patch(model, patch).SerializeToString(), optimization=level)
    if form == "two-files":
        guard = apply_guard(model, patch)
        assert guard is not None
        session = TwoFileSession(session, create_session(guard.SerializeToString(), optimization=level))
    names = ["logits", SCORE_OUTPUT, FLAG_OUTPUT]
    parts = [session.run(names, {model.input.name: part}) for part in np.split(pixels, len(pixels) // size)]
    found = dict(zip(names, map(np.concatenate, zip(*parts, strict=True)), strict=True))
    for row, image in enumerate(pixels):
        wanted = expected(classifier, flag, image[None])
        assert found[FLAG_OUTPUT][row] == wanted[FLAG_OUTPUT][0]
        assert found[SCORE_OUTPUT][row] == pytest.approx(wanted[SCORE_OUTPUT][0], abs=SCORE_TOLERANCE)
        np.testing.assert_allclose(found["logits"][row], wanted["logits"][0], atol=1e-4)


def test_a_row_that_is_not_flagged_keeps_its_answer_and_one_that_is_gets_the_bounded_one() -> None:
    model = tiny()
    classifier, flag = fitted(model)
    pixels = decided(classifier, flag, MIXED)
    found = run_model(apply_patch(model, patch_of(model, flag)), model, [pixels])
    plain = run_model(model.proto, model, [pixels])["logits"]
    bounds = tuple(UpperBound(site.tensor, site.bound) for site in flag.sites)
    bounded = run_model(apply_patch(model, Patch("unit", model.sha256, bounds)), model, [pixels])["logits"]
    flags = found[FLAG_OUTPUT]
    assert 0 < flags.sum() < len(flags)
    np.testing.assert_array_equal(found["logits"][~flags], plain[~flags])
    np.testing.assert_allclose(found["logits"][flags], bounded[flags], atol=1e-4)


def test_false_alarms_on_the_deciding_images_are_those_asked_for() -> None:
    classifier, flag = fitted(tiny(), false_alarms=0.1)
    flags = run_flag(classifier, flag, classifier.tensor(CLEAN[64:]))[2]
    assert int(flags.sum()) == 3


def test_however_many_false_alarms_are_asked_for_none_has_no_second_answer() -> None:
    classifier, flag = fitted(tiny(), false_alarms=0.9)
    flags = run_flag(classifier, flag, classifier.tensor(CLEAN))[2]
    first = classifier.run(classifier.tensor(CLEAN), fetch=[site.tensor for site in flag.sites])
    assert not (flags & (excess_of(first, flag) <= flag.gate)).any()
    assert flags.any()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 20, width=32), min_size=1, max_size=60), st.floats(0.001, 0.9))
def test_the_threshold_never_lets_more_pass(values: list[float], share: float) -> None:
    scores = np.array(values, np.float32)
    assert (scores > quantile_between(scores, share)).sum() <= share * len(scores) + 1e-6


def test_a_patch_file_keeps_it(tmp_path) -> None:
    model = tiny()
    _, flag = fitted(model)
    write_patch(patch_of(model, flag), tmp_path / "p.safetensors")
    read = read_patch(tmp_path / "p.safetensors").corrections[0]
    assert isinstance(read, Flag)
    assert (read.gate, read.threshold, read.form) == (flag.gate, flag.threshold, flag.form)
    np.testing.assert_array_equal(read.tails, flag.tails)
    np.testing.assert_array_equal(read.sites[1].bound, flag.sites[1].bound)


def test_a_hardened_file_takes_no_second_flag() -> None:
    model = tiny()
    _, flag = fitted(model)
    again = read_model(apply_patch(model, patch_of(model, flag)))
    with pytest.raises(UnsupportedGraphError, match="hardened before"):
        apply_patch(again, replace(patch_of(again, flag)))
