# SPDX-License-Identifier: Apache-2.0
"""A stage for attackers: one original, a hardened file of each method, and the gate with limits that nothing breaks.

The limits on behaviour are open, so that what fails here fails because of what the file is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from patcher.commands.verify import GateResult, verify
from patcher.errors import InputError
from patcher.export.apply import apply_guard, apply_patch
from patcher.gate import cost
from patcher.gate.policy import Accept, Policy
from patcher.model.model import Model, read_model, write_model
from patcher.patch import (
    Bias,
    Branch,
    BranchForm,
    Correction,
    Patch,
    Realignment,
    UpperBound,
    WeightMask,
    Weights,
    write_patch,
)
from tests.gate.test_methods import LENIENT, normalized_model
from tests.tiny_models import images

REWRITTEN = replace(LENIENT, accept=Accept(rewritten=True))
Tamper = Callable[[onnx.ModelProto], None]


def channels(value: float) -> np.ndarray:
    """One value a channel."""
    return np.full((1, 6, 1, 1), value, np.float32)


def branch(form: BranchForm) -> Branch:
    """A second pass for class 1."""
    item = Realignment("n1", channels(0.5), channels(0.1), channels(2.0), channels(-2.0))
    return Branch((1,), (item,), form)


CORRECTIONS: dict[str, tuple[str, tuple[Correction, ...]]] = {
    "unit": ("unit", (UpperBound("r1", channels(0.5)), UpperBound("r2", channels(0.8)))),
    "nft": ("nft", (WeightMask("w1", np.full((6, 1, 1, 1), 0.5, np.float32)), Bias("c1", channels(0.1)))),
    "bna": ("bna", (branch("if"),)),
    "where": ("bna", (branch("where"),)),
    "two-files": ("bna", (branch("two-files"),)),
    "none": ("none", (Weights("w2", np.full((6, 6, 3, 3), 0.01, np.float32)),)),
}


@dataclass(frozen=True)
class Stage:
    """Files of one original, and the gate."""

    folder: Path
    model: Model
    preprocess: dict[str, Any]

    @property
    def original(self) -> Path:
        """Path of the original."""
        return self.folder / "original.onnx"

    def hardened(self, name: str) -> Path:
        """Path of a hardened file."""
        return self.folder / f"{name}.onnx"

    def patch(self, name: str) -> Path:
        """Path of its patch."""
        return self.folder / f"{name}.safetensors"

    def gate(self, hardened: Path, *, policy: Policy = LENIENT, **options: Any) -> GateResult:
        """The gate on a file."""
        given = {"clean_dir": self.folder / "clean.npz", "accuracy_floor": 0.0, "policy": policy, **options}
        return verify(self.original, hardened, **given)

    def failures(self, hardened: Path, **options: Any) -> set[str]:
        """Checks that fail on a file."""
        return {check.name for check in self.gate(hardened, **options).checks if check.failed}

    def attack(self, name: str, tamper: Tamper, path: Path, **options: Any) -> set[str]:
        """Checks that fail on a hardened file that was tampered with."""
        model = onnx.load(self.hardened(name))
        tamper(model)
        onnx.save(model, path)
        return self.failures(path, **options)

    def refuses(self, name: str, tamper: Tamper, path: Path, **options: Any) -> bool:
        """Whether the gate fails on a file that was tampered with, or says that it is no model."""
        try:
            return bool(self.attack(name, tamper, path, **options))
        except InputError:
            return True


@pytest.fixture(autouse=True)
def no_memory_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check on memory starts two processes; it has tests of its own."""
    monkeypatch.setattr(cost, "peak_memory", lambda *_: 1)


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """The original, clean images, and a hardened file of each method."""
    from patcher.data.clean_set import read_clean_set
    from patcher.data.preprocess import resolve_preprocess

    folder = tmp_path_factory.mktemp("attacks")
    onnx.save(normalized_model(), folder / "original.onnx")
    pixels = (images(64).transpose(0, 2, 3, 1) * 255).astype(np.uint8)
    np.savez(folder / "clean.npz", images=pixels, labels=np.arange(64) % 4)
    model = read_model(folder / "original.onnx")
    preprocess = resolve_preprocess(model)
    clean_set = read_clean_set(folder / "clean.npz", model, preprocess)
    for name, (method, corrections) in CORRECTIONS.items():
        patch = Patch(method, model.sha256, corrections, {}, clean_set.sha256, preprocess.as_json())
        write_patch(patch, folder / f"{name}.safetensors")
        write_model(apply_patch(model, patch), folder / f"{name}.onnx")
        guard = apply_guard(model, patch)
        if guard is not None:
            write_model(guard, folder / f"{name}.guard.onnx")
    return Stage(folder, model, preprocess.as_json())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the hostile file goes."""
    return tmp_path / "hostile.onnx"
