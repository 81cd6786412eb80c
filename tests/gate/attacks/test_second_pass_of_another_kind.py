# SPDX-License-Identifier: Apache-2.0
"""A BNA claim, and in place of the second pass a backdoor of the attacker's own."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from tests.gate.attacks.conftest import REWRITTEN, Stage, Tamper
from tests.gate.attacks.hostile_graphs import behind_scores, forged, node, pixels_are


def backdoor(model: onnx.ModelProto) -> None:
    """Four bright pixels of the corner are class 3."""
    forged(model)
    behind_scores(model, *pixels_are(model), node("Where", ["triggered", "forged", "plain"], ["logits"]))


def with_flag(model: onnx.ModelProto) -> None:
    """The same, with an output that looks like a detector."""
    backdoor(model)
    model.graph.node.append(node("Squeeze", ["triggered", "one"], ["trigger_detected"]))
    model.graph.initializer.append(helper.make_tensor("one", TensorProto.INT64, [1], [1]))
    model.graph.output.append(helper.make_tensor_value_info("trigger_detected", TensorProto.BOOL, ["N"]))


@pytest.mark.parametrize("tamper", [backdoor, with_flag])
@pytest.mark.parametrize("name", ["two-files", "bna", "where", "nft", "unit"])
def test_it_fails(stage: Stage, path: Path, name: str, tamper: Tamper) -> None:
    if name in ("bna", "where"):
        tamper = backdoor  # they have that output
    for options in ({}, {"patch": stage.patch(name)}):
        assert "reconstruction" in stage.attack(name, tamper, path, **options)
        assert {"reconstruction", "graph"} <= stage.attack(name, tamper, path, policy=REWRITTEN, **options)


def test_inside_the_second_pass(stage: Stage, path: Path) -> None:
    def tamper(model: onnx.ModelProto) -> None:
        then = next(
            item.g for n in model.graph.node if n.op_type == "If" for item in n.attribute if item.name == "then_branch"
        )
        last = then.node[-1]
        last.op_type = "Xor" if last.op_type == "And" else last.op_type
        relu = next(item for item in then.node if item.op_type == "Relu")
        relu.op_type = "Abs"

    for options in ({}, {"patch": stage.patch("bna")}):
        assert "reconstruction" in stage.attack("bna", tamper, path, **options)
        assert "reconstruction" in stage.attack("bna", tamper, path, policy=REWRITTEN, **options)
