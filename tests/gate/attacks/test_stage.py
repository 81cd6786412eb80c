# SPDX-License-Identifier: Apache-2.0
"""What every attack starts from passes, so that an attack that fails fails for its own reason."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from tests.gate.attacks.conftest import CORRECTIONS, REWRITTEN, Stage


@pytest.mark.parametrize("name", CORRECTIONS)
def test_the_untouched_file_passes(stage: Stage, name: str) -> None:
    assert stage.failures(stage.hardened(name), patch=stage.patch(name)) == set()
    assert stage.failures(stage.hardened(name)) == ({"reconstruction"} if name == "none" else set())


@pytest.mark.parametrize("name", ["unit", "nft"])
def test_a_renamed_file_is_equivalent(stage: Stage, name: str, path: Path) -> None:
    def rename(model: onnx.ModelProto) -> None:
        for index, item in enumerate(model.graph.node):
            item.name = f"renamed_{index}"

    assert stage.attack(name, rename, path) == {"reconstruction"}
    found = stage.gate(path, policy=REWRITTEN)
    proof = next(check for check in found.checks if check.name == "reconstruction")
    assert {check.name for check in found.checks if check.failed} == set()
    assert proof.details["verdict"] == "equivalent"
    assert stage.failures(path, policy=REWRITTEN, patch=stage.patch(name)) == set()
