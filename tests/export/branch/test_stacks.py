# SPDX-License-Identifier: Apache-2.0
"""A second pass of a model that has other corrections: both passes carry them, as in PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from patcher.calibrate.classifier import Classifier
from patcher.calibrate.patched import corrected, run_branch
from patcher.data.preprocess import resolve_preprocess
from patcher.export.apply import apply_guard
from patcher.export.bake import bake_patch
from patcher.export.parity.parity import run_model
from patcher.model.model import Model
from patcher.patch import Bias, Branch, Correction, Patch, UpperBound, WeightMask
from patcher.runtime import create_session
from patcher.two_files import FLAG_OUTPUT, TwoFileSession
from tests.export.branch.test_branch import PIXELS, TENSORS, branch, tiny

LOWER = {
    "unit": (
        UpperBound("r1", np.linspace(2, 4, 6, dtype=np.float32).reshape(1, 6, 1, 1)),
        UpperBound("r2", np.full((), 10, np.float32)),
    ),
    "nft": (
        WeightMask("w1", np.linspace(0.2, 1, 6, dtype=np.float32).reshape(6, 1, 1, 1)),
        Bias("c1", np.linspace(-1, 1, 6, dtype=np.float32).reshape(1, 6, 1, 1)),
    ),
}


def in_torch(model: Model, corrections: tuple[Correction, ...], item: Branch) -> tuple[np.ndarray, np.ndarray]:
    classifier = corrected(Classifier(model, resolve_preprocess(model), device=torch.device("cpu")), corrections)
    scores, flags, _ = run_branch(classifier, item, torch.from_numpy(PIXELS))
    return scores.numpy(), flags.numpy()


@pytest.mark.parametrize("bake", ["nodes", "folded"])
@pytest.mark.parametrize("targets", [(2,), (0, 2, 3)])
@pytest.mark.parametrize("form", ["if", "where", "two-files"])
@pytest.mark.parametrize("lower", [("unit",), ("nft",), ("nft", "unit")], ids="+".join)
@pytest.mark.parametrize("kind", ["folded", "normalized"])
def test_both_passes_carry_what_lies_below(kind, lower, form, targets, bake) -> None:
    model = tiny(kind)
    below = tuple(item for name in lower for item in LOWER[name])
    item = branch(TENSORS[kind], targets, form=form)
    scores, flags = in_torch(model, below, item)
    assert 0 < flags.sum() < len(flags)
    patch = Patch("+".join([*lower, "bna"]), model.sha256, (*below, item))
    hardened, guard = bake_patch(model, patch, bake).model, apply_guard(model, patch)
    if guard is not None:
        session = TwoFileSession(
            create_session(hardened.SerializeToString()), create_session(guard.SerializeToString())
        )
        found = dict(zip(("logits", FLAG_OUTPUT), session.run(None, {"image": PIXELS}), strict=True))
    else:
        found = run_model(hardened, model, [PIXELS])
    np.testing.assert_array_equal(found[FLAG_OUTPUT], flags)
    np.testing.assert_allclose(found["logits"], scores, rtol=1e-4, atol=1e-4 * np.abs(scores).max())
    # Without what lies below, the answers are others: the bounds and masks of this test do bind.
    assert np.abs(in_torch(model, (), item)[0] - scores).max() > 0.1
