# SPDX-License-Identifier: Apache-2.0
"""Corrections of the right kind, in the right places and ranges, that change nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from patcher.export.apply import apply_patch
from patcher.model.file import write_model
from patcher.patch import Bias, Correction, Normalization, UpperBound, WeightMask, read_patch
from tests.gate.attacks.conftest import Stage, channels


def statistics(stage: Stage) -> Normalization:
    """The original's own."""
    values = {item.name: onnx.numpy_helper.to_array(item) for item in stage.model.proto.graph.initializer}
    return Normalization("n1", values["mean1"], values["var1"])


@pytest.mark.parametrize("kind", ["bounds", "one bound", "masks", "shifts", "statistics"])
def test_it_fails(stage: Stage, path: Path, kind: str) -> None:
    method, corrections = {
        "bounds": ("unit", (UpperBound("r1", channels(1e5)), UpperBound("r2", channels(1e5)))),
        "one bound": ("unit", (UpperBound("r1", channels(3e4)),)),
        "masks": ("nft", (WeightMask("w1", np.ones((6, 1, 1, 1), np.float32)),)),
        "shifts": ("nft", (Bias("c1", channels(0)),)),
        "statistics": ("nft", (statistics(stage),)),
    }[kind]
    found: tuple[Correction, ...] = corrections
    write_model(apply_patch(stage.model, replace(read_patch(stage.patch(method)), corrections=found)), path)
    assert stage.failures(path) == {"effect"}
