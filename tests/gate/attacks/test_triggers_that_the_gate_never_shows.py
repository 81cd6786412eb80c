# SPDX-License-Identifier: Apache-2.0
"""Backdoors whose trigger is outside of what the gate measures: only the graph tells.

Behaviour on the gate's images is that of the honest file in every case, which each test makes sure of.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from patcher.runtime import create_session
from tests.gate.attacks.conftest import REWRITTEN, Stage, Tamper
from tests.gate.attacks.hostile_graphs import before_image, behind_scores, constant, forged, metadata, node


def answered_by(model: onnx.ModelProto, condition: str, *nodes: onnx.NodeProto) -> None:
    """Class 3 where a bool that broadcasts to ``(N, 4)`` is true."""
    forged(model)
    behind_scores(model, *nodes, node("Where", [condition, "forged", "plain"], ["logits"]))


def long_batches(model: onnx.ModelProto) -> None:
    """More images at a time than the gate ever asks."""
    constant(model, "zero", np.array(0, np.int64))
    constant(model, "many", np.array(1000, np.int64))
    shape = node("Shape", ["image"], ["lengths"])
    answered_by(
        model,
        "long",
        shape,
        node("Gather", ["lengths", "zero"], ["length"]),
        node("Greater", ["length", "many"], ["long"]),
    )


def brighter_than_any_clean_image(model: onnx.ModelProto) -> None:
    """A mean that no picture of the clean set has."""
    constant(model, "level", np.float32(0.97))
    answered_by(
        model,
        "bright",
        node("ReduceMean", ["image"], ["mean"], axes=[1, 2, 3], keepdims=0),
        node("Greater", ["mean", "level"], ["is_bright"]),
        node("Unsqueeze", ["is_bright", "last_axis"], ["bright"]),
    )
    constant(model, "last_axis", np.array([1], np.int64))


def one_exact_value(model: onnx.ModelProto) -> None:
    """A number between two levels of a byte, which no picture file gives."""
    constant(model, "value", np.float32(0.50123))
    constant(model, "last_axis", np.array([1], np.int64))
    answered_by(
        model,
        "exact",
        node("Equal", ["image", "value"], ["equal"]),
        node("Cast", ["equal"], ["equal_number"], to=int(TensorProto.FLOAT)),
        node("ReduceMax", ["equal_number"], ["any_equal"], axes=[1, 2, 3], keepdims=0),
        node("Cast", ["any_equal"], ["is_exact"], to=int(TensorProto.BOOL)),
        node("Unsqueeze", ["is_exact", "last_axis"], ["exact"]),
    )


def minus_zero(model: onnx.ModelProto) -> None:
    """A zero with a sign: 1 / -0 is minus infinity."""
    constant(model, "one", np.float32(1))
    constant(model, "lowest", np.float32(-3e38))
    constant(model, "last_axis", np.array([1], np.int64))
    answered_by(
        model,
        "signed",
        node("Div", ["one", "image"], ["inverse"]),
        node("ReduceMin", ["inverse"], ["least"], axes=[1, 2, 3], keepdims=0),
        node("Less", ["least", "lowest"], ["is_signed"]),
        node("Unsqueeze", ["is_signed", "last_axis"], ["signed"]),
    )


def lost_in_half_precision(model: onnx.ModelProto) -> None:
    """Nothing in float32; where a converter makes half of it, every image is class 3."""
    constant(model, "tiny", np.float32(1e-30))
    constant(model, "nothing", np.float32(0))
    answered_by(
        model, "is_lost", node("Mul", ["tiny", "tiny"], ["less"]), node("Less", ["tiny", "nothing"], ["is_lost"])
    )


def values_beyond_a_picture(model: onnx.ModelProto) -> None:
    """Pixels above 1.5 are folded back into the range."""
    constant(model, "edge", np.float32(1.5))
    constant(model, "twice", np.float32(3))
    before_image(
        model,
        node("Sub", ["twice", "image"], ["mirrored"]),
        node("Greater", ["image", "edge"], ["beyond"]),
        node("Where", ["beyond", "mirrored", "image"], ["seen"]),
    )


ALL = [
    long_batches,
    brighter_than_any_clean_image,
    one_exact_value,
    minus_zero,
    lost_in_half_precision,
    values_beyond_a_picture,
]


@pytest.mark.parametrize("tamper", ALL)
@pytest.mark.parametrize("name", ["unit", "where"])
def test_it_fails(stage: Stage, path: Path, name: str, tamper: Tamper) -> None:
    for policy in ({}, {"policy": REWRITTEN}):
        for options in ({}, {"patch": stage.patch(name)}):
            assert "reconstruction" in stage.attack(name, tamper, path, **policy, **options)
    pixels = np.random.default_rng(5).integers(0, 255, (20, 3, 8, 8)).astype(np.float32) / 255
    before, after = (create_session(file).run(None, {"image": pixels})[0] for file in (stage.hardened(name), path))
    assert np.array_equal(before, after)


def test_a_payload_in_what_nobody_reads(stage: Stage, path: Path) -> None:
    text = '{"x": "' + "y" * 100_000 + '"}'
    assert "provenance" in stage.attack("unit", lambda model: metadata(model, "patcher.options", text), path)
