# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from patcher import __version__
from patcher.errors import InputError
from patcher.export import apply_patch
from patcher.model.model import read_model, write_model
from patcher.model.provenance import read_provenance, write_provenance
from patcher.patch import Patch, UpperBound, patch_sha256
from tests.tiny_models import residual_model


def _patch(model):
    bound = UpperBound("r1", np.full((1, 6, 1, 1), 0.5, np.float32))
    return Patch("unit", model.sha256, (bound,), {"steps": 3, "epsilon": 0.02}, "c1ea", {"mean": [0.5], "size": None})


def test_a_hardened_file_says_where_it_came_from(tmp_path):
    proto = residual_model()
    proto.metadata_props.add(key="licence", value="none")
    model = read_model(proto)
    patch = _patch(model)
    write_model(apply_patch(model, patch), tmp_path / "hardened.onnx")
    hardened = read_model(tmp_path / "hardened.onnx").proto
    assert [entry.key for entry in hardened.metadata_props] == [
        "licence",
        "patcher.version",
        "patcher.method",
        "patcher.options",
        "patcher.source_sha256",
        "patcher.clean_data_sha256",
        "patcher.preprocess",
        "patcher.patch_sha256",
    ]
    provenance = read_provenance(hardened)
    assert (provenance.version, provenance.method, provenance.clean_data_sha256) == (__version__, "unit", "c1ea")
    assert (provenance.options, provenance.preprocess) == (patch.options, patch.preprocess)
    assert (provenance.source_sha256, provenance.patch_sha256) == (model.sha256, patch_sha256(patch))


def test_other_models_have_none():
    assert read_provenance(residual_model()) is None


def test_hardening_again_replaces_the_keys():
    model = read_model(residual_model())
    once = read_model(apply_patch(model, _patch(model)))
    twice = apply_patch(once, _patch(once))
    assert read_provenance(twice).source_sha256 == once.sha256
    assert len(twice.metadata_props) == 7


@pytest.mark.parametrize(("key", "value"), [("patcher.options", "{"), ("patcher.preprocess", "[]"), ("patcher.x", "1")])
def test_damaged_keys_are_refused(key, value):
    model = read_model(residual_model())
    hardened = apply_patch(model, _patch(model))
    if key == "patcher.x":
        del hardened.metadata_props[:]
    kept = [entry for entry in hardened.metadata_props if entry.key != key]
    del hardened.metadata_props[:]
    hardened.metadata_props.extend(kept)
    hardened.metadata_props.add(key=key, value=value)
    with pytest.raises(InputError, match="provenance is damaged"):
        read_provenance(hardened)


def test_writing_and_reading_agree():
    model = read_model(residual_model())
    provenance = read_provenance(apply_patch(model, _patch(model)))
    proto = residual_model()
    write_provenance(proto, provenance)
    assert read_provenance(proto) == provenance
