# SPDX-License-Identifier: Apache-2.0
"""A small web service around a hardened model: classes, scores, and whether a trigger was detected.

    PATCHER_MODEL=digits.hardened.onnx uvicorn service:app --host 127.0.0.1 --port 8000

    POST /classify   body: an .npy array (N, ...) as the model takes it; at most 64 images and 8 MiB
    GET  /metrics    images answered and images flagged so far
    GET  /healthz    200 when the model is loaded

Bodies that are no such array are answered with 4xx and never reach the model. PATCHER_MODEL_SHA256 makes the
service refuse any other file than the one that was reviewed. Needs fastapi, uvicorn, onnxruntime and numpy.
"""

from __future__ import annotations

import io
import logging
import math
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from fastapi import FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from numpy.typing import NDArray

from patcher.errors import InputError
from patcher.runtime import GuardedSession

MAX_IMAGES = 64
MAX_BYTES = 8 * 2**20
_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
_log = logging.getLogger("service")


def create_app(model: str, *, sha256: str | None = None) -> FastAPI:
    """Make the service.

    Args:
        model: Path of the hardened model.
        sha256: Its expected hash.

    Returns:
        The application; the model is loaded when it starts.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.session = GuardedSession(model, sha256=sha256, threads=1, on_flags=_warn)
        yield

    app = FastAPI(title="guarded classifier", lifespan=lifespan)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok", "patch_sha256": app.state.session.metadata.get("patcher.patch_sha256", "")}

    @app.get("/metrics")
    async def metrics() -> dict[str, int]:
        return dict(app.state.session.counts)

    @app.post("/classify")
    async def classify(request: Request) -> dict[str, Any]:
        session: GuardedSession = app.state.session
        inputs = read_array(await read_body(request), session)
        try:
            answers = await run_in_threadpool(session.classify, inputs)
        except InputError as error:
            raise HTTPException(422, str(error)) from error
        return {
            "labels": answers.labels.tolist(),
            "scores": np.nan_to_num(answers.scores).tolist(),
            "trigger_detected": answers.flags.tolist(),
        }

    return app


async def read_body(request: Request) -> bytes:
    """The body, read no further than the limit.

    Raises:
        HTTPException: 413, it is too large.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BYTES:
            raise HTTPException(413, f"at most {MAX_BYTES} bytes expected")
    return bytes(body)


def read_array(body: bytes, session: GuardedSession) -> NDArray[Any]:
    """An ``.npy`` body as the model's input.

    Raises:
        HTTPException: 400, it is no ``.npy`` array; 422, it is not what the model takes.
    """
    kind = _TYPES.get(session.input.type, np.float32)
    try:
        stream = io.BytesIO(body)
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(stream)
        # The header may promise more than the body holds; nothing is allocated before that is known.
        if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(body) - stream.tell():
            raise ValueError("the header does not fit the body")
        stream.seek(0)
        array = np.lib.format.read_array(stream, allow_pickle=False)
    except (ValueError, EOFError, OSError, OverflowError) as error:
        raise HTTPException(400, "the body must be one .npy array of numbers") from error
    expected = [side if isinstance(side, int) else None for side in session.input.shape[1:]]
    fits = array.ndim == len(expected) + 1 and all(
        wanted in (None, found) for wanted, found in zip(expected, array.shape[1:], strict=True)
    )
    if not fits or array.dtype != kind or not 1 <= len(array) <= MAX_IMAGES:
        raise HTTPException(422, f"1 to {MAX_IMAGES} images of shape {expected} and type {np.dtype(kind)} expected")
    if not np.isfinite(array).all():
        raise HTTPException(422, "finite numbers expected")
    return array


def _warn(count: int) -> None:
    _log.warning("trigger detected in %d images", count)


def __getattr__(name: str) -> FastAPI:
    """``service:app`` for uvicorn, from the environment."""
    if name == "app":
        return create_app(os.environ["PATCHER_MODEL"], sha256=os.environ.get("PATCHER_MODEL_SHA256"))
    raise AttributeError(name)
