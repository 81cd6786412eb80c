# SPDX-License-Identifier: Apache-2.0
"""A really hardened sample, and the gate as a user runs it on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest

import patcher
from patcher.commands.verify import GateResult, verify


@dataclass(frozen=True)
class Pair:
    """An original, its hardened form, the patch between them, and clean images."""

    original: Path
    hardened: Path
    patch: Path
    clean: Path


def harden(original: Path, clean: Path, folder: Path, **options: Any) -> Pair:
    """Harden with UNIT for real; bounds as nodes, which can be tampered with one by one."""
    options = {"bake": "nodes"} | options
    output = folder / "model.hardened.onnx"
    result = patcher.harden(original, clean_dir=clean, output=output, report_dir=folder / "report", **options)
    assert result.output is not None
    return Pair(original, output, folder / "report" / "patch.safetensors", clean)


@pytest.fixture(scope="session")
def digits(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The sample, hardened."""
    return harden(samples / "digits.onnx", samples / "clean", tmp_path_factory.mktemp("digits"), steps=60)


def failures(pair: Pair, hardened: onnx.ModelProto | Path, folder: Path, **options: Any) -> set[str]:
    """Names of the checks that fail on a file."""
    return {check.name for check in gate(pair, hardened, folder, **options).checks if check.failed}


def gate(pair: Pair, hardened: onnx.ModelProto | Path, folder: Path, **options: Any) -> GateResult:
    """Run the gate on a file or on a model that was tampered with."""
    path = hardened if isinstance(hardened, Path) else folder / "tampered.onnx"
    if not isinstance(hardened, Path):
        onnx.save(hardened, path)
    return verify(pair.original, path, clean_dir=pair.clean, **options)


Tamper = Callable[[onnx.ModelProto], None]
