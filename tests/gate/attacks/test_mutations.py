# SPDX-License-Identifier: Apache-2.0
"""Hardened graphs changed at random: what changes an answer, on any picture, fails a check.

The oracle is the answers of the mutant and of the file that it was made from, to pictures that the gate never sees.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from patcher.errors import InputError
from patcher.runtime import create_session, runtime_errors
from tests.gate.attacks.conftest import LENIENT, REWRITTEN, Stage

SLOW = settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
OPERATORS = ("Relu", "Abs", "Neg", "Identity", "Sigmoid", "Tanh", "Add", "Sub", "Mul", "Min", "Max", "Div")
PICTURES = np.random.default_rng(99).random((16, 3, 8, 8)).astype(np.float32)
PICTURES[8:] = PICTURES[8:].round()


def mutate(model: onnx.ModelProto, draw: st.DataObject) -> None:
    """Change one thing."""
    graph = model.graph
    node = graph.node[draw.draw(st.integers(0, len(graph.node) - 1))]
    kind = draw.draw(st.sampled_from(["operator", "input", "value", "swap", "attribute", "insert", "drop"]))
    tensors = [name for item in graph.node for name in item.output] + [item.name for item in graph.initializer]
    if kind == "operator":
        node.op_type = draw.draw(st.sampled_from(OPERATORS))
    elif kind == "input" and node.input:
        node.input[draw.draw(st.integers(0, len(node.input) - 1))] = draw.draw(st.sampled_from([*tensors, "image"]))
    elif kind == "swap" and len(node.input) > 1:
        node.input[0], node.input[1] = node.input[1], node.input[0]
    elif kind == "attribute" and node.attribute:
        entry = node.attribute[draw.draw(st.integers(0, len(node.attribute) - 1))]
        entry.f += 0.5
        entry.i += 1
        entry.ints[:] = [value + 1 for value in entry.ints]
    elif kind == "insert":
        graph.node.append(onnx.helper.make_node("Abs", [draw.draw(st.sampled_from(tensors))], ["added"]))
        node.input[0] = "added"
    elif kind == "drop":
        graph.node.remove(node)
    else:
        floats = [item for item in graph.initializer if item.data_type == onnx.TensorProto.FLOAT]
        tensor = floats[draw.draw(st.integers(0, len(floats) - 1))]
        values = onnx.numpy_helper.to_array(tensor).copy()
        values.flat[draw.draw(st.integers(0, values.size - 1))] += draw.draw(st.sampled_from([1e-3, 1.0, -1.0, 100.0]))
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def answers(path: Path) -> list[np.ndarray] | None:
    """All outputs; ``None`` where the file does not run."""
    try:
        found: list[np.ndarray] = create_session(path, threads=1).run(None, {"image": PICTURES})
    except (InputError, *runtime_errors()):
        return None
    return found


# The values of its own corrections may be anything in their range: those of a patch are pinned by --patch.
@pytest.mark.parametrize("name", ["unit", "nft", "bna", "where"])
@given(data=st.data())
@SLOW
def test_what_changes_an_answer_fails(stage: Stage, path: Path, name: str, data: st.DataObject) -> None:
    model = onnx.load(stage.hardened(name))
    mutate(model, data)
    onnx.save(model, path)
    before, after = answers(stage.hardened(name)), answers(path)
    assert before is not None
    same = after is not None and all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    if not same:
        for policy in (LENIENT, REWRITTEN):
            assert refused(stage, path, policy=policy, patch=stage.patch(name))


def refused(stage: Stage, path: Path, **options: object) -> bool:
    """Whether the gate fails on it, or says that it is no model."""
    try:
        return bool(stage.failures(path, **options))
    except InputError:
        return True
