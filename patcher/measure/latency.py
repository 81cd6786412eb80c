# SPDX-License-Identifier: Apache-2.0
"""Latency of two models side by side in ONNX Runtime: paired runs, ratio of medians."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnxruntime

_WARM_UP = 3


@dataclass(frozen=True)
class Latency:
    """Medians over paired runs.

    Attributes:
        batch: Images a run.
        runs: Pairs.
        before_ms: Median of the original, milliseconds.
        after_ms: Median of the hardened model, milliseconds.
    """

    batch: int
    runs: int
    before_ms: float
    after_ms: float

    @property
    def ratio(self) -> float:
        """Hardened to original."""
        return self.after_ms / self.before_ms

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "batch": self.batch,
            "runs": self.runs,
            "before_ms": self.before_ms,
            "after_ms": self.after_ms,
            "ratio": self.ratio,
        }


def paired_latency(
    before: onnxruntime.InferenceSession,
    after: onnxruntime.InferenceSession,
    feed: dict[str, NDArray[Any]],
    *,
    runs: int = 30,
    seconds: float = 3.0,
) -> Latency:
    """Run both sessions in turn, so that what else the machine does falls on both alike.

    Args:
        before: The original.
        after: The hardened model.
        feed: One batch, for both.
        runs: Pairs wanted.
        seconds: Stop early after so long, with at least three pairs.
    """
    for _ in range(_WARM_UP):
        before.run(None, feed)
        after.run(None, feed)
    times: tuple[list[float], list[float]] = ([], [])
    deadline = time.perf_counter() + seconds
    for index in range(runs):
        if index >= _WARM_UP and time.perf_counter() > deadline:
            break
        for session, found in zip((before, after), times, strict=True):
            start = time.perf_counter()
            session.run(None, feed)
            found.append(1000 * (time.perf_counter() - start))
    batch = len(np.asarray(next(iter(feed.values()))))
    return Latency(batch, len(times[0]), statistics.median(times[0]), statistics.median(times[1]))
