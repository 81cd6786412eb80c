# SPDX-License-Identifier: Apache-2.0
"""Corrections that nobody reads: the readers use a twin of the corrected tensor."""

from __future__ import annotations

from pathlib import Path

import onnx

from tests.gate.attacks.conftest import REWRITTEN, Stage
from tests.gate.attacks.hostile_graphs import node


def twins(model: onnx.ModelProto) -> None:
    """Every bounded activation is computed once more, and read."""
    for bound in [item for item in model.graph.node if item.op_type == "Min"]:
        relu = next(item for item in model.graph.node if bound.input[0] in item.output)
        twin = f"{relu.output[0]}_again"
        for reader in model.graph.node:
            for index, name in enumerate(reader.input):
                if name == bound.output[0]:
                    reader.input[index] = twin
        place = list(model.graph.node).index(relu)
        model.graph.node.insert(place, node("Relu", list(relu.input), [twin], name=twin))


def identities(model: onnx.ModelProto) -> None:
    """The same through an operator that changes nothing."""
    for bound in [item for item in model.graph.node if item.op_type == "Min"]:
        twin = f"{bound.input[0]}_same"
        for reader in model.graph.node:
            for index, name in enumerate(reader.input):
                if name == bound.output[0]:
                    reader.input[index] = twin
        place = list(model.graph.node).index(bound)
        model.graph.node.insert(place, node("Identity", [bound.input[0]], [twin], name=twin))


def test_it_fails(stage: Stage, path: Path) -> None:
    for tamper in (twins, identities):
        for options in ({}, {"patch": stage.patch("unit")}):
            assert "reconstruction" in stage.attack("unit", tamper, path, **options)
            assert {"reconstruction", "graph"} <= stage.attack("unit", tamper, path, policy=REWRITTEN, **options)
