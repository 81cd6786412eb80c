# SPDX-License-Identifier: Apache-2.0
"""The metadata names a seed under which the lost images were no held-out ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx

from patcher.gate.accuracy import accuracy_check, counted_images
from patcher.gate.policy import Policy, Thresholds
from patcher.model.provenance import read_provenance
from patcher.tasks import task_of
from tests.gate.attacks.conftest import Stage
from tests.gate.attacks.hostile_graphs import metadata


class _Clean(SimpleNamespace):
    def __len__(self) -> int:
        return len(self.labels)


def subject(lost: np.ndarray, named: str, seed: int) -> Any:
    """200 images of which some are lost; the gate holds the last 40 out."""
    clean = _Clean(labels=np.zeros(200, np.int64), sha256="a" * 64, held_out=np.arange(160, 200))
    found = SimpleNamespace(clean_data_sha256=named, options={"seed": seed})
    return SimpleNamespace(
        prepared=SimpleNamespace(clean_set=clean, predicted=np.zeros(200, np.int64), task=task_of("single-label")),
        predicted=lost.astype(np.int64),
        scores=None,
        provenance=found,
        failure="",
        policy=Policy(thresholds=Thresholds(accuracy_drop=0.03)),
        settings=SimpleNamespace(seed=0),
    )


def test_no_seed_and_no_hash_hides_a_loss() -> None:
    lost = np.zeros(200, bool)
    lost[:8] = True  # 4 points of the whole, none of the held-out part
    for named in ("a" * 64, "b" * 64):
        for seed in range(20):
            assert accuracy_check(subject(lost, named, seed)).status == "fail"
    lost[:] = False
    lost[160:162] = True  # 1 point of the whole, 5 of the held-out part
    assert accuracy_check(subject(lost, "a" * 64, 7)).status == "fail"
    assert accuracy_check(subject(lost, "b" * 64, 7)).status == "pass"


def test_the_held_out_part_is_the_gates_own() -> None:
    parts = [counted_images(subject(np.zeros(200, bool), "a" * 64, seed))[0] for seed in (0, 1, 2)]
    assert all(np.array_equal(parts[0], part) for part in parts)


def test_options_that_the_metadata_invents(stage: Stage, path: Path) -> None:
    model = onnx.load(stage.hardened("unit"))
    found = read_provenance(model)
    assert found is not None
    metadata(model, "patcher.options", json.dumps({**replace(found).options, "seed": 3}, sort_keys=True))
    onnx.save(model, path)
    # Read out of the graph it is the same file; against the patch it is not.
    assert stage.failures(path, patch=stage.patch("unit")) >= {"reconstruction", "patch"}
