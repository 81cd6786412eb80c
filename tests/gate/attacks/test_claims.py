# SPDX-License-Identifier: Apache-2.0
"""The file says that it comes from another method, another patch, another version, or is a whole other file."""

from __future__ import annotations

import datetime
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from patcher.export.apply import apply_guard, apply_patch
from patcher.gate.policy import Suppression
from patcher.model.file import load_file, write_model
from patcher.patch import Branch, Patch, UpperBound, write_patch
from tests.gate.attacks.conftest import LENIENT, REWRITTEN, Stage, branch, channels
from tests.gate.attacks.hostile_graphs import metadata


@pytest.mark.parametrize("name", ["unit", "nft", "bna", "where", "two-files"])
@pytest.mark.parametrize("method", ["unit", "nft", "bna", "none", "unit+toy", ""])
def test_another_method(stage: Stage, path: Path, name: str, method: str) -> None:
    if method == {"where": "bna", "two-files": "bna"}.get(name, name):
        method = "toy"

    def claim(model: onnx.ModelProto) -> None:
        metadata(model, "patcher.method", method)

    for policy in (LENIENT, REWRITTEN):
        assert stage.attack(name, claim, path, policy=policy)
        assert stage.attack(name, claim, path, policy=policy, patch=stage.patch(name))


def test_any_weights_under_the_method_that_changes_weights(stage: Stage, path: Path) -> None:
    def tamper(model: onnx.ModelProto) -> None:
        weight = next(item for item in model.graph.initializer if item.name == "fc")
        weight.CopyFrom(onnx.numpy_helper.from_array(np.full((4, 6), 7, np.float32), "fc"))

    assert "reconstruction" in stage.attack("none", tamper, path)
    assert {"reconstruction", "patch"} <= stage.attack("none", tamper, path, patch=stage.patch("none"))


def test_the_original_with_borrowed_metadata(stage: Stage, path: Path) -> None:
    model, source = onnx.load(stage.original), onnx.load(stage.hardened("unit"))
    model.metadata_props.extend(source.metadata_props)
    onnx.save(model, path)
    for policy in (LENIENT, REWRITTEN):
        assert "reconstruction" in stage.failures(path, policy=policy)
        assert "reconstruction" in stage.failures(path, policy=policy, patch=stage.patch("unit"))


@pytest.mark.parametrize("name", ["nft", "bna", "none"])
def test_the_original_with_the_metadata_of_a_method_that_may_add_nothing(stage: Stage, path: Path, name: str) -> None:
    model, source = onnx.load(stage.original), onnx.load(stage.hardened(name))
    model.metadata_props.extend(entry for entry in source.metadata_props if entry.key != "patcher.targets")
    onnx.save(model, path)
    assert "reconstruction" in stage.failures(path)


def test_bounds_that_bound_nothing(stage: Stage, path: Path) -> None:
    for value in (np.inf, 1e30):
        patch = Patch(
            "unit", stage.model.sha256, (UpperBound("r1", channels(value)), UpperBound("r2", channels(value)))
        )
        write_model(apply_patch(stage.model, patch), path)
        assert "reconstruction" in stage.failures(path)


def test_another_patch_than_the_reviewed_one(stage: Stage, path: Path, tmp_path: Path) -> None:
    other = Patch("unit", stage.model.sha256, (UpperBound("r1", channels(9)), UpperBound("r2", channels(9))))
    write_model(apply_patch(stage.model, other), path)
    assert {"reconstruction", "patch"} <= stage.failures(path, patch=stage.patch("unit"))
    # Even when it names the reviewed one.
    reviewed = next(
        item.value for item in onnx.load(stage.hardened("unit")).metadata_props if item.key == "patcher.patch_sha256"
    )
    model = onnx.load(path)
    metadata(model, "patcher.patch_sha256", reviewed)
    onnx.save(model, path)
    assert {"reconstruction", "patch"} <= stage.failures(path, patch=stage.patch("unit"))
    write_patch(other, tmp_path / "other.safetensors")
    assert "patch" in stage.failures(path, patch=tmp_path / "other.safetensors")


@pytest.mark.parametrize("field", ["version", "patch_sha256", "clean_data_sha256", "source_sha256"])
def test_fields_that_hold_something_else(stage: Stage, path: Path, field: str) -> None:
    for text in ("", "\x1b[2J", "../../x", "a" * 100_000, "<script>"):

        def claim(model: onnx.ModelProto, text: str = text) -> None:
            metadata(model, f"patcher.{field}", text)

        assert "provenance" in stage.attack("unit", claim, path)


def test_another_guard_beside_it(stage: Stage, tmp_path: Path) -> None:
    shutil.copy(stage.hardened("two-files"), tmp_path / "model.onnx")
    assert stage.failures(tmp_path / "model.onnx") >= {"reconstruction"}  # none at all
    item = branch("two-files")
    for corrections, target in (((), (1,)), (item.corrections, (2,))):
        other = Patch("bna", stage.model.sha256, (replace(item, corrections=corrections, targets=target),))
        guard = apply_guard(stage.model, other)
        assert guard is not None
        key = "patcher.patch_sha256"
        wanted = next(e.value for e in onnx.load(tmp_path / "model.onnx").metadata_props if e.key == key)
        metadata(guard, key, wanted)
        write_model(guard, tmp_path / "model.guard.onnx")
        assert "reconstruction" in stage.failures(tmp_path / "model.onnx", patch=stage.patch("two-files"))
    behaves = onnx.load(stage.hardened("two-files").with_name("two-files.guard.onnx"))
    next(node for node in behaves.graph.node if node.op_type == "Relu").op_type = "Abs"
    onnx.save(behaves, tmp_path / "model.guard.onnx")
    for policy in (LENIENT, REWRITTEN):
        assert "reconstruction" in stage.failures(tmp_path / "model.onnx", policy=policy)


def test_the_right_guard_beside_it(stage: Stage, tmp_path: Path) -> None:
    shutil.copy(stage.hardened("two-files"), tmp_path / "model.onnx")
    shutil.copy(stage.hardened("two-files").with_name("two-files.guard.onnx"), tmp_path / "model.guard.onnx")
    assert stage.failures(tmp_path / "model.onnx") == set()
    assert isinstance(branch("two-files"), Branch)


def test_suppressions_of_another_file(stage: Stage, path: Path) -> None:
    day = datetime.date(2999, 1, 1)
    _, digest = load_file(stage.hardened("unit"))
    policy = replace(LENIENT, suppressions=(Suppression("reconstruction", digest, day, "of another file"),))

    def tamper(model: onnx.ModelProto) -> None:
        model.graph.node[0].doc_string = "x"

    assert "reconstruction" in stage.attack("unit", tamper, path, policy=policy)


def test_a_suppression_of_the_suppressions(stage: Stage, path: Path) -> None:
    def tamper(model: onnx.ModelProto) -> None:
        model.graph.node[0].doc_string = "x"

    stage.attack("unit", tamper, path)
    _, digest = load_file(path)
    past, future = datetime.date(2001, 1, 1), datetime.date(2999, 1, 1)
    entries = (
        Suppression("reconstruction", digest, past, "over"),
        Suppression("suppressions", digest, future, "never again"),
    )
    assert {"reconstruction", "suppressions"} <= stage.failures(path, policy=replace(LENIENT, suppressions=entries))
