# SPDX-License-Identifier: Apache-2.0
"""A file that behaves as it should in the gate's large batches, and otherwise alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.gate.attacks.conftest import REWRITTEN, Stage, Tamper
from tests.gate.attacks.hostile_graphs import behind_scores, constant, forged, node


def short_batches(model: onnx.ModelProto) -> None:
    """Fewer than four images: class 3."""
    forged(model)
    constant(model, "zero", np.array(0, np.int64))
    constant(model, "four", np.array(4, np.int64))
    behind_scores(
        model,
        node("Shape", ["image"], ["lengths"]),
        node("Gather", ["lengths", "zero"], ["length"]),
        node("Less", ["length", "four"], ["short"]),
        node("Where", ["short", "forged", "plain"], ["logits"]),
    )


def neighbours(model: onnx.ModelProto) -> None:
    """The first image of a batch decides for the others."""
    constant(model, "zero", np.array([0], np.int64))
    behind_scores(
        model,
        node("Gather", ["plain", "zero"], ["first"]),
        node("ReduceMean", ["plain"], ["mean"], axes=[0], keepdims=1),
        node("Sub", ["mean", "first"], ["surplus"]),
        node("Add", ["plain", "surplus"], ["logits"]),
    )


def odd_lengths(model: onnx.ModelProto) -> None:
    """A sum over the batch's length, not a comparison."""
    forged(model)
    constant(model, "zero", np.array(0, np.int64))
    constant(model, "two", np.array(2, np.int64))
    behind_scores(
        model,
        node("Shape", ["image"], ["lengths"]),
        node("Gather", ["lengths", "zero"], ["length"]),
        node("Mod", ["length", "two"], ["odd"]),
        node("Cast", ["odd"], ["weight"], to=int(TensorProto.FLOAT)),
        node("Mul", ["forged", "weight"], ["push"]),
        node("Add", ["plain", "push"], ["logits"]),
    )


@pytest.mark.parametrize("tamper", [short_batches, neighbours, odd_lengths])
@pytest.mark.parametrize("name", ["unit", "two-files"])
def test_it_fails(stage: Stage, path: Path, name: str, tamper: Tamper) -> None:
    assert {"reconstruction", "consistency"} <= stage.attack(name, tamper, path)
    assert {"reconstruction", "consistency", "graph"} <= stage.attack(name, tamper, path, policy=REWRITTEN)
