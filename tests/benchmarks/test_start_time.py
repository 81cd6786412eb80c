# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from benchmarks import start_time


def test_verify_loads_no_torch_and_starts_quickly() -> None:
    found = start_time.measure(2)
    assert not found["torch"]
    assert found["modules"] > 100
    # Processor time: what else the machine does must not decide.
    assert found["processor_s"] < 2 * start_time.LIMIT_SECONDS
