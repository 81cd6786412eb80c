# SPDX-License-Identifier: Apache-2.0
"""A tiny fleet: models whose backdoor is written down, few steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.calibrate.scan.block_models import block_images, block_model

SCAN = {"family": ["patch", "tones"], "steps": 20, "seeds": 1}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``backdoored.onnx``, ``clean.onnx`` and their clean images."""
    folder = tmp_path_factory.mktemp("models")
    onnx.save(block_model(target=7), folder / "backdoored.onnx")
    onnx.save(block_model(), folder / "clean.onnx")
    images, labels = block_images(20)
    # Pictures are (N, H, W, C), as they come from files.
    np.savez(folder / "images.npz", images=np.rint(images * 255).astype(np.uint8).transpose(0, 2, 3, 1), labels=labels)
    return folder


@pytest.fixture
def table(models: Path, tmp_path: Path) -> dict[str, Any]:
    """What a ``fleet.toml`` over these models holds."""
    return {
        "results": str(tmp_path / "results"),
        "defaults": {"clean_dir": str(models / "images.npz"), "scan": dict(SCAN)},
        "models": [{"path": str(models / "backdoored.onnx")}, {"path": str(models / "clean.onnx")}],
    }
