# SPDX-License-Identifier: Apache-2.0
"""Corrections are read back out of what was made with them, whatever their values, types and places."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from patcher.export import apply_patch
from patcher.export.apply import apply_guard
from patcher.export.bake import bake_patch
from patcher.export.reading.corrections import read_corrections
from patcher.export.reading.masks import channel_mask, scaled_shift
from patcher.export.reading.second_pass import read_guard
from patcher.gate.equivalence import FREE_KEYS
from patcher.model.file import serialize
from patcher.model.model import Model, read_model
from patcher.patch import (
    Affine,
    Bias,
    Branch,
    BranchForm,
    Correction,
    MeanBound,
    Normalization,
    Patch,
    Realignment,
    UpperBound,
    WeightMask,
    Weights,
)
from tests.gate.test_methods import normalized_model
from tests.tiny_models import residual_model

SLOW = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
MODELS = {
    "normalized": read_model(normalized_model()),
    "plain": read_model(residual_model()),
    "half": read_model(residual_model(dtype=np.float16)),
    "fixed": read_model(normalized_model(image=(2, 3, 8, 8), outputs=(("logits", (2, 4)),))),
}
finite = st.floats(-8, 8, width=32)


def values(draw: st.DrawFn, shape: tuple[int, ...], numbers: st.SearchStrategy[float] = finite) -> np.ndarray:
    size = int(np.prod(shape))
    return np.array(draw(st.lists(numbers, min_size=size, max_size=size)), np.float32).reshape(shape)


@st.composite
def plain_corrections(draw: st.DrawFn, name: str) -> tuple[Correction, ...]:
    """Some corrections of every kind that changes the first pass, in graph order."""
    found: list[Correction] = []
    one, form = (1, 6, 1, 1), draw(st.sampled_from(["mask", "weights"]))
    unit = st.floats(0, 1, width=32)
    if draw(st.booleans()):
        found.append(WeightMask("w1", values(draw, (6, 1, 1, 1), unit), form))
    if draw(st.booleans()):
        found.append(Bias("c1", values(draw, one)))
    if draw(st.booleans()):
        found.append(Affine("c1", values(draw, one), values(draw, one)))
    if name == "normalized" and draw(st.booleans()):
        found.append(Normalization("n1", values(draw, (6,)), np.abs(values(draw, (6,)))))
    if draw(st.booleans()):
        shape = draw(st.sampled_from([one, (1, 6, 8, 8), ()]))
        found.append(UpperBound("r1", values(draw, shape, st.floats(0, 100, width=32))))
    if draw(st.booleans()):
        found.append(MeanBound("r1", values(draw, one, st.floats(0.0625, 100, width=32))))
    if draw(st.booleans()):
        found.append(Weights("w2", values(draw, (6, 6, 3, 3)).astype(np.float32)))
    return tuple(found)


@st.composite
def branches(draw: st.DrawFn, name: str) -> Branch:
    """A second pass over one to three targets with realignments at some tensors."""
    targets = tuple(sorted(draw(st.sets(st.integers(0, 3), min_size=1, max_size=3))))
    shape = (len(targets), 6, 1, 1)
    items = []
    for tensor in ["c1", "n1", "r1", "c2"] if name in ("normalized", "fixed") else ["c1", "r1", "c2"]:
        if not draw(st.booleans()):
            continue
        lower = values(draw, shape)
        upper = lower + np.abs(values(draw, shape))
        if draw(st.booleans()):
            upper = np.full(shape, np.inf, np.float32)
        if draw(st.booleans()):
            lower = np.full(shape, -np.inf, np.float32)
        items.append(Realignment(tensor, values(draw, shape), values(draw, shape), upper, lower))
    form = draw(st.sampled_from(["if", "where", "two-files"]))
    return Branch(targets, tuple(items), form, draw(st.booleans()))


@pytest.mark.parametrize("name", ["normalized", "plain", "half"])
@given(data=st.data())
@SLOW
def test_the_first_pass(name: str, data: st.DataObject) -> None:
    model = MODELS[name]
    patch = Patch("none", model.sha256, data.draw(plain_corrections(name)))
    hardened = apply_patch(model, patch)
    found = Patch("none", model.sha256, read_corrections(model, hardened))
    assert same(apply_patch(model, found), hardened)


@pytest.mark.parametrize("name", ["normalized", "plain", "half", "fixed"])
@given(data=st.data())
@SLOW
def test_the_second_pass(name: str, data: st.DataObject) -> None:
    assert_read_back(MODELS[name], data.draw(branches(name)))


def assert_read_back(model: Model, branch: Branch) -> None:
    """What is read out of the hardened file makes the same file again, and the same guard."""
    hardened = apply_patch(model, Patch("bna", model.sha256, (branch,)))
    (found,) = read_corrections(model, hardened)
    assert isinstance(found, Branch)
    guard = apply_guard(model, Patch("bna", model.sha256, (branch,)))
    if guard is not None:
        found = read_guard(model, guard, found)
        again = apply_guard(model, Patch("bna", model.sha256, (found,)))
        assert again is not None
        assert same(again, guard)
    assert same(apply_patch(model, Patch("bna", model.sha256, (found,))), hardened)


@pytest.mark.parametrize("form", ["if", "where", "two-files"])
@pytest.mark.parametrize("name", ["plain", "half"])
def test_bounds_of_one_value(name: str, form: BranchForm) -> None:
    zero = np.zeros((1, 6, 1, 1), np.float32)
    bound = zero + np.arange(6, dtype=np.float32).reshape(1, 6, 1, 1) / 3
    branch = Branch((0,), (Realignment("c2", zero + 1, zero, bound, bound),), form)
    assert_read_back(MODELS[name], branch)


@given(data=st.data())
@SLOW
def test_folded_bounds_are_carried(data: st.DataObject) -> None:
    model = MODELS["plain"]
    bounds = [UpperBound(name, values(data.draw, (1, 6, 1, 1), st.floats(0, 9, width=32))) for name in ("r1", "r2")]
    patch = Patch("unit", model.sha256, tuple(bounds))
    hardened = bake_patch(model, patch, "folded").model
    found = Patch("unit", model.sha256, read_corrections(model, hardened))
    assert same(bake_patch(model, found, "folded").model, hardened)


def test_a_stack_keeps_the_order_of_its_methods() -> None:
    model = MODELS["normalized"]
    one = np.full((1, 6, 1, 1), 0.5, np.float32)
    nft, unit = frozenset({"WeightMask", "Bias"}), frozenset({"UpperBound"})
    corrections = (
        UpperBound("r1", one),
        UpperBound("r2", one),
        WeightMask("w1", one.reshape(6, 1, 1, 1)),
        Bias("c2", one),
    )
    hardened = apply_patch(model, Patch("unit+nft", model.sha256, corrections))
    found = read_corrections(model, hardened, [unit, nft])
    assert [type(item).__name__ for item in found] == ["UpperBound", "UpperBound", "WeightMask", "Bias"]
    assert same(apply_patch(model, Patch("unit+nft", model.sha256, found)), hardened)


def test_a_model_that_was_hardened_before() -> None:
    once = read_model(apply_patch(MODELS["plain"], bounded(MODELS["plain"].sha256, "r1", "r2")))
    for tensors in (("r1_unbounded",), ("r1",), ("r1_unbounded", "r2")):
        twice = apply_patch(once, bounded(once.sha256, *tensors))
        found = read_corrections(once, twice)
        assert [item.tensor for item in found] == list(tensors)
        assert same(apply_patch(once, Patch("unit", once.sha256, found)), twice)


def bounded(sha256: str, *tensors: str) -> Patch:
    return Patch("unit", sha256, tuple(UpperBound(name, np.full((1, 6, 1, 1), 0.5, np.float32)) for name in tensors))


@given(mask=st.floats(0, 1, width=32), data=st.data())
@SLOW
def test_a_mask_from_its_product(mask: float, data: st.DataObject) -> None:
    weight = values(data.draw, (2, 3))
    product = weight * np.array([[mask], [1]], np.float32)
    found = channel_mask(weight, product)
    assert found is not None
    assert np.array_equal(weight * found, product)
    assert channel_mask(np.ones((2, 2), np.float32), np.array([[1, 2], [3, 4]], np.float32)) is None


@given(shift=finite, factor=st.floats(0.125, 8, width=32))
def test_a_shift_from_its_quotient(shift: float, factor: float) -> None:
    constant = np.array([shift], np.float32) / np.float32(factor)
    assert np.array_equal(scaled_shift(constant, factor) / np.float32(factor), constant)


def same(one: onnx.ModelProto, other: onnx.ModelProto) -> bool:
    """Equal but for hashes of the patch and of the second file: what was rounded has many patches."""
    copies = []
    for proto in (one, other):
        copied = onnx.ModelProto()
        copied.CopyFrom(proto)
        for entry in copied.metadata_props:
            entry.value = "" if entry.key in FREE_KEYS else entry.value
        copies.append(serialize(copied))
    return copies[0] == copies[1]
