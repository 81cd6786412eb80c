# SPDX-License-Identifier: Apache-2.0
"""Outputs that nobody asked for: the image itself, an inner tensor, a weight."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from tests.gate.attacks.conftest import REWRITTEN, Stage, Tamper
from tests.gate.attacks.hostile_graphs import node


def image_returned(model: onnx.ModelProto) -> None:
    """The input as an output."""
    model.graph.node.append(node("Identity", ["image"], ["copy"]))
    model.graph.output.append(helper.make_tensor_value_info("copy", TensorProto.FLOAT, ["N", 3, 8, 8]))


def features_returned(model: onnx.ModelProto) -> None:
    """An inner tensor as an output."""
    model.graph.output.append(helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["N", 6]))


def weights_returned(model: onnx.ModelProto) -> None:
    """A weight as an output."""
    model.graph.output.append(helper.make_tensor_value_info("fc", TensorProto.FLOAT, [4, 6]))


@pytest.mark.parametrize("tamper", [image_returned, features_returned, weights_returned])
@pytest.mark.parametrize("name", ["unit", "bna"])
def test_it_fails(stage: Stage, path: Path, name: str, tamper: Tamper) -> None:
    assert {"reconstruction", "interface"} <= stage.attack(name, tamper, path)
    assert {"reconstruction", "interface"} <= stage.attack(name, tamper, path, policy=REWRITTEN)
