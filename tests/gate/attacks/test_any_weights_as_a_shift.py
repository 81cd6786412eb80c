# SPDX-License-Identifier: Apache-2.0
"""An NFT claim: a sum with a weight can be any weight, and so can a mask that is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.gate.attacks.conftest import REWRITTEN, Stage, Tamper
from tests.gate.attacks.hostile_graphs import constant, node


def on_weight(operator: str, value: np.ndarray) -> Tamper:
    """Put an operator with a constant between ``w2`` and its reader."""

    def tamper(model: onnx.ModelProto) -> None:
        reader = next(item for item in model.graph.node if item.op_type == "Conv" and item.output[0] == "c2")
        constant(model, "other", value)
        place = list(model.graph.node).index(reader)
        source = reader.input[1]
        reader.input[1] = "w2_other"
        model.graph.node.insert(place, node(operator, [source, "other"], ["w2_other"]))

    return tamper


@pytest.mark.parametrize(
    ("operator", "value"),
    [
        ("Add", np.ones((6, 6, 3, 3), np.float32)),
        ("Add", np.ones((6, 1, 1, 1), np.float32)),
        ("Mul", np.full((6, 6, 3, 3), 0.5, np.float32)),
        ("Mul", np.full((6, 1, 1, 1), -1, np.float32)),
        ("Mul", np.full((6, 1, 1, 1), 2, np.float32)),
    ],
)
def test_it_fails(stage: Stage, path: Path, operator: str, value: np.ndarray) -> None:
    assert "reconstruction" in stage.attack("nft", on_weight(operator, value), path)
    assert {"reconstruction", "graph"} <= stage.attack("nft", on_weight(operator, value), path, policy=REWRITTEN)


@pytest.mark.parametrize("value", [-0.5, 1.5, np.inf])
def test_a_mask_in_its_right_place_that_is_none(stage: Stage, path: Path, value: float) -> None:
    def tamper(model: onnx.ModelProto) -> None:
        mask = next(item for item in model.graph.initializer if item.name == "w1_mask")
        values = onnx.numpy_helper.to_array(mask).copy()
        values.flat[2] = value
        mask.CopyFrom(onnx.numpy_helper.from_array(values, "w1_mask"))

    assert "reconstruction" in stage.attack("nft", tamper, path)
    assert "reconstruction" in stage.attack("nft", tamper, path, policy=REWRITTEN)
