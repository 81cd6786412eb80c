# SPDX-License-Identifier: Apache-2.0
"""Patch files that no calibration writes: one line and exit code 2, and nothing is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from patcher._cli import main
from patcher.errors import InputError, PatcherError
from patcher.export import apply_patch
from patcher.patch import Patch, UpperBound, parse_patch
from tests.gate.attacks.conftest import Stage, channels

BOUND = {"type": "UpperBound", "tensor": "r1", "bound": {"array": "0.bound"}}
BRANCH = {"type": "Branch", "targets": [1], "corrections": [], "form": "if", "keep_original_output": False}


def crafted(stage: Stage, **changed: Any) -> bytes:
    """A patch for the original with some of its entries replaced."""
    document = {
        "format_version": 1,
        "method": "unit",
        "source_sha256": stage.model.sha256,
        "clean_data_sha256": "",
        "options": {},
        "preprocess": {},
        "corrections": [BOUND],
        **changed,
    }
    return save({"0.bound": channels(0.5)}, metadata={"patcher": json.dumps(document)})


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "../../x"},
        {"method": ""},
        {"method": None},
        {"method": "unit\x1b[31m"},
        {"method": ["unit"]},
        {"method": "unit+"},
        {"corrections": [BOUND, BOUND]},
        {"corrections": 7},
        {"corrections": [[]]},
        {"corrections": [{**BOUND, "tensor": 3}]},
        {"corrections": [{**BOUND, "tensor": {"array": "0.bound"}}]},
        {"corrections": [{**BOUND, "bound": 0.5}]},
        {"corrections": [{**BOUND, "bound": {"array": "nowhere"}}]},
        {"corrections": [{"type": "Patch"}]},
        {"corrections": [{"type": "Realignment"}]},
        {"corrections": [{**BRANCH, "targets": [[[1]]]}]},
        {"corrections": [{**BRANCH, "targets": [True]}]},
        {"corrections": [{**BRANCH, "targets": []}]},
        {"corrections": [{**BRANCH, "targets": [2, 1]}]},
        {"corrections": [{**BRANCH, "targets": [10**30]}]},
        {"corrections": [{**BRANCH, "form": "../if"}]},
        {"corrections": [{**BRANCH, "corrections": [BOUND]}]},
        {"corrections": [BRANCH, BRANCH]},
        {"options": [1]},
        {"preprocess": "x"},
        {"source_sha256": 5},
        {"clean_data_sha256": {"a": 1}},
        {"format_version": "1"},
    ],
    ids=str,
)
def test_it_is_refused(stage: Stage, changed: dict[str, Any]) -> None:
    with pytest.raises(PatcherError) as error:
        apply_patch(stage.model, parse_patch(crafted(stage, **changed), "patch"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("depth", [2000, 100_000])
def test_nested_beyond_reason(depth: int) -> None:
    deep = "[" * depth + "]" * depth
    header = json.dumps({"__metadata__": {"patcher": deep}}).encode()
    with pytest.raises(InputError):
        parse_patch(len(header).to_bytes(8, "little") + header, "patch")
    with pytest.raises(InputError):
        parse_patch(len(deep).to_bytes(8, "little") + deep.encode(), "patch")


@pytest.mark.parametrize("content", [b"", b"\0" * 8, b"\xff" * 64, (2**63).to_bytes(8, "little") + b"{}"])
def test_no_patch_at_all(content: bytes) -> None:
    with pytest.raises(InputError):
        parse_patch(content, "patch")


@pytest.mark.parametrize("value", [-0.5, np.nan, -np.inf])
def test_bounds_that_no_activation_has(stage: Stage, value: float) -> None:
    patch = Patch("unit", stage.model.sha256, (UpperBound("r1", channels(value)),))
    with pytest.raises(InputError):
        apply_patch(stage.model, patch)


def test_a_method_that_nobody_registered(stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for method in ("../../x", "toy"):
        (tmp_path / "patch.safetensors").write_bytes(crafted(stage, method=method))
        target = tmp_path / "out.onnx"
        code = main(["apply", str(stage.original), str(tmp_path / "patch.safetensors"), "-o", str(target)])
        assert code == 2
        assert capsys.readouterr().err.count("\n") == 1
        assert not target.exists()
