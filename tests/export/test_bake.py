# SPDX-License-Identifier: Apache-2.0
"""The three ways to bake bounds, and what the report and the file say of them."""

from __future__ import annotations

import numpy as np
import pytest

import patcher
from patcher.commands import apply as command
from patcher.errors import InputError, ParityError
from patcher.export.apply import apply_patch
from patcher.export.bake import Baked, bake_patch, baked_form, node_outputs
from patcher.graph.sites import find_sites
from patcher.model.model import read_model
from patcher.model.provenance import read_provenance
from patcher.patch import Patch, UpperBound, WeightMask
from tests.export.fold.test_fold import chain, operators, per_channel
from tests.tiny_models import images, residual_model


def patch_for(model, *tensors, bound=None):
    value = per_channel(6) if bound is None else bound
    return Patch("unit", model.sha256, tuple(UpperBound(name, value) for name in tensors))


def test_nodes_is_what_apply_patch_makes():
    model = read_model(chain())
    patch = patch_for(model, "r1", "r2")
    baked = bake_patch(model, patch)
    assert baked.model == apply_patch(model, patch)
    assert (baked.folded, baked_form(baked.model)) == (False, "nodes")


@pytest.mark.parametrize("bake", ["folded", "auto"])
def test_a_chain_is_folded_and_says_so(bake):
    model = read_model(chain())
    patch = patch_for(model, "r1", "r2")
    baked = bake_patch(model, patch, bake)
    assert baked.as_json() == {"folded": 2, "nodes": {}, "rescaled": []}
    assert baked_form(baked.model) == "folded"
    assert read_provenance(baked.model) == read_provenance(baked.nodes)
    again = bake_patch(model, patch, bake).model
    assert again.SerializeToString(deterministic=True) == baked.model.SerializeToString(deterministic=True)


def test_auto_keeps_nodes_where_folding_saves_nothing():
    """One bound behind the sum: a rescaled operand costs what the node does."""
    model = read_model(residual_model(outputs=(("logits", ("N", 4)), ("r1", ("N", 6, 8, 8)))))
    patch = patch_for(model, "r2")
    assert bake_patch(model, patch, "folded").rescaled == ("r1",)
    baked = bake_patch(model, patch, "auto")
    assert baked.as_json()["nodes"] == {"r2": "folding saves nothing"}
    assert operators(baked.model)["Min"] == 1


def test_a_masked_weight_is_no_constant_that_could_take_a_factor():
    model = read_model(chain())
    mask = WeightMask("w2", np.linspace(0.2, 1, 6, dtype=np.float32).reshape(6, 1, 1, 1))
    patch = Patch("unit", model.sha256, (mask, UpperBound("r1", per_channel(6)), UpperBound("r2", per_channel(6))))
    baked = bake_patch(model, patch, "folded")
    assert baked.as_json()["nodes"] == {
        "r1": "Conv reads 'r1' behind it",
        "r2": "the layer before it cannot take a factor",
    }
    assert node_outputs(baked, model, [images()]) is None
    assert (baked.model, baked_form(baked.model)) == (baked.nodes, "nodes")


def test_inspect_says_where_bounds_stay_nodes():
    proto = chain()
    assert "limits" not in patcher.inspect(proto).about()
    next(node for node in proto.graph.node if node.op_type == "Relu").op_type = "HardSwish"
    assert patcher.inspect(proto).about()["limits"].startswith("bounds (method unit) stay nodes behind 1 HardSwish")
    model = read_model(proto)
    sites = [site.tensor for site in find_sites(model) if site.kind == "activation"]
    kept = bake_patch(model, patch_for(model, *sites), "folded").as_json()["nodes"]
    assert list(kept.values()) == ["HardSwish is not positively homogeneous"]


def test_an_unknown_form_is_refused():
    model = read_model(chain())
    with pytest.raises(InputError, match="--bake: nodes, folded or auto expected"):
        bake_patch(model, patch_for(model, "r1"), "fused")


def test_apply_writes_the_folded_form(tmp_path):
    model = read_model(chain())
    patch = patch_for(model, "r1", "r2")
    proto = command.apply(chain(), patch, output=tmp_path / "out.onnx", bake="folded")
    assert operators(proto)["Min"] == 0
    assert read_model(tmp_path / "out.onnx").proto == proto


def test_apply_writes_nothing_when_the_folded_form_answers_otherwise(tmp_path, monkeypatch):
    """The folded form is compared with the nodes, not only believed."""
    model = read_model(chain())
    patch = patch_for(model, "r1", "r2")
    right = bake_patch(model, patch, "folded")
    other = bake_patch(model, patch_for(model, "r1", "r2", bound=per_channel(6, seed=5)), "folded")
    wrong = Baked(other.model, right.nodes, right.sites)
    monkeypatch.setattr(command, "bake_patch", lambda *_: wrong)
    with pytest.raises(ParityError):
        command.apply(chain(), patch, output=tmp_path / "out.onnx", bake="folded")
    assert not (tmp_path / "out.onnx").exists()
