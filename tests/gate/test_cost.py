# SPDX-License-Identifier: Apache-2.0
"""Ratios of small models fail by coin toss; an absolute allowance stands beside them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from patcher.gate import cost
from patcher.gate.policy import Policy, Thresholds
from patcher.measure.latency import Latency


def subject(before_bytes: int = 0, after_bytes: int = 0, **limits: float) -> Any:
    model = SimpleNamespace(proto=SimpleNamespace(ByteSize=lambda: before_bytes), input=SimpleNamespace(name="image"))
    hardened = SimpleNamespace(proto=SimpleNamespace(ByteSize=lambda: after_bytes), session=object())
    return SimpleNamespace(
        policy=Policy(thresholds=Thresholds(**limits)),
        prepared=SimpleNamespace(model=model, session=object()),
        hardened=hardened,
        predicted=object(),
    )


@pytest.mark.parametrize(
    ("before", "after", "status"),
    [
        (100_000, 109_000, "pass"),
        (100_000, 120_480, "pass"),
        (100_000, 1_200_000, "fail"),
        (10**8, 112 * 10**6, "fail"),
    ],
)
def test_size(before: int, after: int, status: str) -> None:
    assert cost._size(subject(before, after)).status == status


def test_a_policy_may_take_the_allowance_away() -> None:
    assert cost._size(subject(100_000, 120_480, size_allowance_kib=0)).status == "fail"


@pytest.mark.parametrize(
    ("before_ms", "after_ms", "status"),
    [(0.1, 0.3, "pass"), (10.0, 14.0, "pass"), (10.0, 16.0, "fail"), (1.0, 1.7, "fail"), (1.0, 1.49, "pass")],
)
def test_latency(before_ms: float, after_ms: float, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "_batch", lambda _: None)
    monkeypatch.setattr(cost, "paired_latency", lambda *_: Latency(8, 3, before_ms, after_ms))
    assert cost._latency(subject()).status == status


def test_a_busy_moment_refuses_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "_batch", lambda _: None)
    measured = iter([Latency(8, 3, 10.0, 19.0), Latency(8, 3, 10.0, 14.0), Latency(8, 3, 10.0, 19.0)])
    monkeypatch.setattr(cost, "paired_latency", lambda *_: next(measured))
    assert cost._latency(subject()).status == "pass"
