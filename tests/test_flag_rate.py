# SPDX-License-Identifier: Apache-2.0
"""The alarm on the rate of flags: silent on clean traffic, quick on an attack."""

from __future__ import annotations

import numpy as np
import pytest

from patcher.flag_rate import FlagRate


def test_clean_traffic_raises_no_alarm() -> None:
    rng, rate = np.random.default_rng(0), FlagRate(0.01)
    assert not any(rate.add(64, int(rng.binomial(64, 0.01))) for _ in range(1500))


@pytest.mark.parametrize("share", [0.05, 0.2, 1.0])
def test_an_attack_does(share: float) -> None:
    rng, rate = np.random.default_rng(1), FlagRate(0.01)
    batches = next(count for count in range(200) if rate.add(64, int(rng.binomial(64, 0.01 + 0.99 * share))))
    assert batches * 64 * share < 250


def test_it_falls_silent_again() -> None:
    rate = FlagRate(0.01)
    assert rate.add(40, 40)
    assert not rate.add(10_000, 100)


@pytest.mark.parametrize("arguments", [{"expected": 0}, {"expected": 0.6}, {"expected": 0.01, "factor": 1}])
def test_numbers_out_of_range(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        FlagRate(**arguments)
