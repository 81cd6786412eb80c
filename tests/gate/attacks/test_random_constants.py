# SPDX-License-Identifier: Apache-2.0
"""Constants that are none: a bound that a random number lifts now and then."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.gate.attacks.conftest import REWRITTEN, Stage
from tests.gate.attacks.hostile_graphs import constant, node

RANDOM = {
    "Bernoulli": lambda: node("Bernoulli", ["chance"], ["thrown"]),
    "RandomUniformLike": lambda: node("RandomUniformLike", ["chance"], ["thrown"]),
    "RandomNormal": lambda: node("RandomNormal", [], ["thrown"], shape=[1, 1, 1, 1]),
    "Multinomial": lambda: node("Multinomial", ["chances"], ["thrown"], sample_size=1, dtype=int(TensorProto.INT32)),
}


@pytest.mark.parametrize("operator", RANDOM)
def test_a_bound_that_is_lifted_by_chance(stage: Stage, path: Path, operator: str) -> None:
    def tamper(model: onnx.ModelProto) -> None:
        constant(model, "chance", np.full((1, 1, 1, 1), 0.3, np.float32))
        constant(model, "chances", np.array([[0.5, 0.5]], np.float32))
        constant(model, "much", np.float32(1e6))
        added = [
            RANDOM[operator](),
            node("Cast", ["thrown"], ["number"], to=int(TensorProto.FLOAT)),
            node("Mul", ["number", "much"], ["lift"]),
        ]
        for index, item in enumerate([item for item in model.graph.node if item.op_type == "Min"]):
            added.append(node("Add", [item.input[1], "lift"], [f"lifted_{index}"]))
            item.input[1] = f"lifted_{index}"
        kept = list(model.graph.node)
        del model.graph.node[:]
        model.graph.node.extend([*added, *kept])

    assert {"reconstruction", "operators"} <= stage.attack("unit", tamper, path)
    assert {"reconstruction", "operators", "graph"} <= stage.attack("unit", tamper, path, policy=REWRITTEN)


def test_a_bound_that_a_node_computes(stage: Stage, path: Path) -> None:
    def tamper(model: onnx.ModelProto) -> None:
        bound = next(item for item in model.graph.node if item.op_type == "Min")
        constant(model, "more", np.float32(1e6))
        model.graph.node.insert(0, node("Add", [bound.input[1], "more"], ["lifted"]))
        bound.input[1] = "lifted"

    assert "reconstruction" in stage.attack("unit", tamper, path)
    assert {"reconstruction", "graph"} <= stage.attack("unit", tamper, path, policy=REWRITTEN)
