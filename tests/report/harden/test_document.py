# SPDX-License-Identifier: Apache-2.0
"""What was understood of a model and of its preprocessing, and in which form bounds are baked, stands in the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import patcher
from tests.tiny_models import residual_model


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    images = (rng.random((60, 8, 8, 3)) * rng.random((60, 1, 1, 3))).astype(np.float32)
    np.savez(tmp_path / "clean.npz", images=images)
    return tmp_path / "clean.npz"


def hardened(clean: Path, model: Any, **options: Any) -> dict[str, Any]:
    given = {"steps": 1, "pseudo_labels": True, "epsilon": 0.5, **options}
    return dict(patcher.harden(model, clean_dir=clean, **given).as_json())


def test_an_old_opset_and_a_preprocessor_config(clean: Path, tmp_path: Path) -> None:
    config = tmp_path / "preprocessor_config.json"
    config.write_text(
        json.dumps({"do_normalize": True, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.5, 0.5, 0.25], "size": 8})
    )
    found = hardened(clean, residual_model(opset=9, ir_version=4), preprocess={"file": config})
    assert found["model"]["changes"] == ["opset 9 converted to 11"]
    assert "the model was brought to standard form in memory: opset 9 converted to 11" in found["notes"]
    assert (found["preprocess"]["mean"], found["preprocess"]["std"]) == ([0.4, 0.5, 0.6], [0.5, 0.5, 0.25])


@pytest.mark.parametrize(("outputs", "form"), [(("logits",), "folded weights"), (("logits", "r1", "r2"), "nodes")])
def test_the_form_of_the_bounds_and_why(clean: Path, outputs: tuple[str, ...], form: str) -> None:
    shapes = {"logits": ("N", 4), "r1": ("N", 6, 8, 8), "r2": ("N", 6, 8, 8)}
    found = hardened(clean, residual_model(outputs=tuple((name, shapes[name]) for name in outputs)))
    (note,) = (note for note in found["notes"] if note.startswith("bounds baked as"))
    assert note.startswith(f"bounds baked as {form}: ")
    assert len(note) > len(f"bounds baked as {form}: ")
