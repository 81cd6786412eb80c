# SPDX-License-Identifier: Apache-2.0
"""Methods one on top of another: names, options, budgets, and what the second is calibrated on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import patcher
from patcher.calibrate.stack import joined, read_stack, within_budget
from patcher.calibrate.unit.options import Options
from patcher.errors import InputError
from patcher.patch import UpperBound, WeightMask


def test_a_flag_must_come_last() -> None:
    assert read_stack("nft+unit").options({"flag": True})[1].flag
    with pytest.raises(InputError, match="unit must come last, found unit\\+bna"):
        read_stack("unit+bna").options({"flag": True})


def test_options_go_to_every_method_that_knows_them() -> None:
    unit, nft = read_stack("unit+nft").options({"steps": 7, "z": 5.0, "momentum": 0.5})
    assert (unit.steps, unit.z, nft.steps, nft.momentum) == (7, 5.0, 7, 0.5)
    with pytest.raises(InputError, match="method unit\\+nft: unknown options branches"):
        read_stack("unit+nft").options({"branches": 1})


def test_what_methods_disagree_on_is_recorded_once_a_method() -> None:
    tables = ({"steps": 1, "epsilon": 0.5, "z": 4}, {"steps": 2, "epsilon": 0.5})
    assert joined(("unit", "nft"), tables) == {"unit.steps": 1, "nft.steps": 2, "epsilon": 0.5, "z": 4}
    assert joined(("unit",), tables[:1]) == tables[0]


@pytest.mark.parametrize(
    ("lost", "left", "epsilon"), [(0.0, 1, 0.02), (0.0, 2, 0.01), (0.005, 1, 0.015), (-0.1, 1, 0.02), (0.5, 1, 0.0)]
)
def test_methods_share_the_accuracy_that_may_be_lost(lost: float, left: int, epsilon: float) -> None:
    assert within_budget(Options(epsilon=0.02), lost, left).epsilon == pytest.approx(epsilon)


def test_the_second_method_sees_what_the_first_left(samples: Path) -> None:
    common = {"clean_dir": samples / "clean", "steps": 4, "minibatch": 32, "epsilon": 0.5, "device": "cpu"}
    alone = patcher.harden(samples / "digits.onnx", method="unit", **common)
    above = patcher.harden(samples / "digits.onnx", method="nft+unit", floor=0.2, **common)
    kinds = [type(item) for item in above.patch.corrections]
    assert kinds.index(UpperBound) > max(place for place, kind in enumerate(kinds) if kind is WeightMask)
    bounds = [
        [item.bound for item in found.patch.corrections if isinstance(item, UpperBound)] for found in (alone, above)
    ]
    assert not any(np.array_equal(*pair) for pair in zip(*bounds, strict=True))
    assert above.patch.method == "nft+unit"
    assert {part["method"] for part in above.report.sections["curve"]} == {"nft", "unit"}
