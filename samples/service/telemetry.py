# SPDX-License-Identifier: Apache-2.0
"""What a service says of itself: Prometheus metrics, and OpenTelemetry spans where that is installed.

| metric | kind | what |
|---|---|---|
| `patcher_requests_total` | counter, by `status` | requests to classify, by HTTP status |
| `patcher_images_total` | counter | images answered |
| `patcher_flagged_total` | counter | images in which a trigger was detected |
| `patcher_flag_rate` | gauge | share of flagged ones among the last images, 1000 of them at least once there were |
| `patcher_request_seconds` | histogram | from a request's head to the end of its answer, seconds |
| `patcher_model_info` | info | method and hash of the patch |
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

WINDOW_IMAGES = 1000
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The metrics of one model. Safe to share between threads.

    Args:
        metadata: Of the model.
    """

    def __init__(self, metadata: Mapping[str, str]) -> None:
        # A registry of its own: several applications may live in one process.
        self._registry = CollectorRegistry()
        made: dict[str, Any] = {"registry": self._registry}
        self._seconds = Histogram("patcher_request_seconds", "Time to answer a request", buckets=SECONDS, **made)
        self._requests = Counter("patcher_requests", "Requests to classify", ["status"], **made)
        self._images = Counter("patcher_images", "Images answered", **made)
        self._flagged = Counter("patcher_flagged", "Images in which a trigger was detected", **made)
        self._rate = Gauge("patcher_flag_rate", f"Share of flagged ones in the last {WINDOW_IMAGES} images", **made)
        Info("patcher_model", "The model that is served", **made).info(
            {key: metadata.get(f"patcher.{key}", "") for key in ("method", "patch_sha256", "version")}
        )
        self._lock = threading.Lock()
        self._recent: deque[tuple[int, int]] = deque()
        self._sums = [0, 0]

    def count(self, images: int, flagged: int) -> None:
        """Count the images of one answer, and those of them that were flagged."""
        self._images.inc(images)
        self._flagged.inc(flagged)
        with self._lock:
            self._recent.append((images, flagged))
            self._sums = [self._sums[0] + images, self._sums[1] + flagged]
            while self._sums[0] - self._recent[0][0] >= WINDOW_IMAGES:
                oldest = self._recent.popleft()
                self._sums = [self._sums[0] - oldest[0], self._sums[1] - oldest[1]]
            self._rate.set(self._sums[1] / self._sums[0])

    def ended(self, status: int, seconds: float) -> None:
        """Count a request by its HTTP status, and the time that it took."""
        self._requests.labels(str(status)).inc()
        self._seconds.observe(seconds)

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)


class Observed:
    """Middleware that counts and times the requests to one path, by the status that goes out.

    Args:
        app: What it stands around.
        path: The path.
    """

    def __init__(self, app: ASGIApp, path: str) -> None:
        self._app, self._path = app, path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and watch its answer."""
        if scope["type"] != "http" or scope["path"] != self._path:
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            scope["app"].state.metrics.ended(status, time.perf_counter() - start)


class Spans:
    """OpenTelemetry spans of the configured tracer; none where `opentelemetry` is not installed."""

    def __init__(self) -> None:
        try:
            from opentelemetry import trace
        except ImportError:
            self._tracer: Any = None
        else:
            self._tracer = trace.get_tracer("patcher.service")

    def span(self, name: str, **attributes: int | str) -> AbstractContextManager[Any]:
        """A span around a block."""
        if self._tracer is None:
            return nullcontext()
        found: AbstractContextManager[Any] = self._tracer.start_as_current_span(name, attributes=attributes)
        return found
