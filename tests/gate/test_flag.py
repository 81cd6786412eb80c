# SPDX-License-Identifier: Apache-2.0
"""A flag that needs no trigger at the gate: proven, quiet on clean images, and able to come on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import patcher
from patcher.commands.apply import save_hardened
from patcher.commands.verify import verify
from patcher.export import apply_guard, apply_patch
from patcher.gate import cost
from patcher.gate.alarms import unusual_pictures
from patcher.model.model import read_model
from patcher.patch import Flag, Patch, read_patch

FORMS = ("if", "where", "two-files")


@pytest.fixture(scope="module")
def patches(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flags")
    for form in FORMS:
        options = {"flag": True, "branch": form, "steps": 20}
        patcher.harden(samples / "digits.onnx", clean_dir=samples / "clean", report_dir=folder / form, **options)
    return folder


def gate(
    samples: Path, patches: Path, folder: Path, form: str, monkeypatch: pytest.MonkeyPatch, **changes: object
) -> dict[str, str]:
    """Statuses of the checks on the sample with a flag of other values."""
    monkeypatch.setattr(cost, "peak_memory", lambda *_: 1)
    model, patch = read_model(samples / "digits.onnx"), read_patch(patches / form / "patch.safetensors")
    (flag,) = patch.corrections
    assert isinstance(flag, Flag)
    other: Patch = replace(patch, corrections=(replace(flag, **changes),))
    output = folder / "hardened.onnx"
    save_hardened(model, other, apply_patch(model, other), apply_guard(model, other), output)
    found = verify(samples / "digits.onnx", output, clean_dir=samples / "clean").checks
    return {check.name: check.status for check in found}


@pytest.mark.parametrize("form", FORMS)
def test_as_it_was_fitted_it_passes(
    form: str, samples: Path, patches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = gate(samples, patches, tmp_path, form, monkeypatch)
    for name in ("reconstruction", "false_alarms", "flag_response", "consistency"):
        assert found[name] == "pass"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({"threshold": 900.0}, "flag_response"),
        ({"threshold": 1e9}, "reconstruction"),
        ({"threshold": float("inf")}, "reconstruction"),
        ({"tails": np.zeros((2, 2), np.float32)}, "flag_response"),
        ({"threshold": -1.0}, "false_alarms"),
    ],
    ids=str,
)
def test_one_that_never_comes_on_or_always_fails(
    form: str,
    changes: dict[str, object],
    failed: str,
    samples: Path,
    patches: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if form == "two-files" and changes.get("threshold") == -1.0:
        pytest.skip("its rows below the gate are not flagged whatever the threshold")
    assert gate(samples, patches, tmp_path, form, monkeypatch, **changes)[failed] == "fail"


def test_unusual_pictures_are_pictures() -> None:
    clean = np.random.default_rng(1).random((4, 3, 8, 8), np.float32)
    found = unusual_pictures(clean)
    assert found.shape == (20, 3, 8, 8)
    assert found.dtype == np.float32
    assert found.min() >= 0
    assert found.max() <= 1
