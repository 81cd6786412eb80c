# SPDX-License-Identifier: Apache-2.0
"""A small web service around a hardened model: classes, scores, and whether a trigger was detected.

    python service.py digits.hardened.onnx --keep-flagged flagged/
    PATCHER_MODEL=digits.hardened.onnx PATCHER_KEEP_FLAGGED=flagged/ uvicorn service:app --host 127.0.0.1 --port 8000

    POST /classify   body: an .npy array (N, ...) as the model takes it; at most 64 images and 8 MiB
    GET  /metrics    images answered and images flagged so far
    GET  /healthz    200 when the model is loaded

Bodies that are no such array, and values that no picture has, are answered with 4xx; the service never fails open.
A body must be complete in 10 seconds, and 16 may wait at a time: further ones get 503. PATCHER_MODEL_SHA256 makes
the service refuse any other file than the one that was reviewed. Flagged inputs are kept for review in the folder of
--keep-flagged, at most 1000 files and 256 MiB; `patcher harden --method nft --flagged` reads it.
Needs fastapi, uvicorn, onnxruntime and numpy.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import logging
import math
import os
import sys
import tokenize
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from fastapi import FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from numpy.typing import NDArray
from starlette.middleware.body_limit import RequestBodyLimitMiddleware

from patcher.errors import InputError
from patcher.kept import Keeper
from patcher.runtime import Answers, GuardedSession

MAX_IMAGES = 64
MAX_BYTES = 8 * 2**20
MAX_WAITING = 16
SECONDS_FOR_A_BODY = 10.0
# What NumPy raises for a header that is none: it parses it as Python.
_NO_ARRAY = (
    ValueError,
    EOFError,
    OSError,
    OverflowError,
    SyntaxError,
    tokenize.TokenError,
    TypeError,
    MemoryError,
    RecursionError,
    AttributeError,
    KeyError,
    IndexError,
)
_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
_log = logging.getLogger("service")


def create_app(model: str, *, sha256: str | None = None, keep_flagged: str | None = None) -> FastAPI:
    """Make the service.

    Args:
        model: Path of the hardened model.
        sha256: Its expected hash.
        keep_flagged: Folder where flagged inputs are kept for review; ``None`` to keep none.

    Returns:
        The application; the model is loaded when it starts.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.waiting = asyncio.Semaphore(MAX_WAITING)
        app.state.session = GuardedSession(model, sha256=sha256, threads=1, on_flags=_warn)
        app.state.keeper = None if keep_flagged is None else Keeper(keep_flagged)
        yield

    app = FastAPI(title="guarded classifier", lifespan=lifespan)
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=MAX_BYTES)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok", "patch_sha256": app.state.session.metadata.get("patcher.patch_sha256", "")}

    @app.get("/metrics")
    async def metrics() -> dict[str, int]:
        return dict(app.state.session.counts)

    @app.post("/classify")
    async def classify(request: Request) -> dict[str, Any]:
        session: GuardedSession = app.state.session
        if app.state.waiting.locked():
            raise HTTPException(503, "busy", {"Retry-After": "1"})
        async with app.state.waiting:
            inputs = read_array(await read_body(request), session)
            try:
                answers = await run_in_threadpool(answer, session, app.state.keeper, inputs)
            except InputError as error:
                raise HTTPException(422, str(error)) from error
        return {
            "labels": answers.labels.tolist(),
            "scores": answers.scores.tolist(),
            "trigger_detected": answers.flags.tolist(),
        }

    return app


def answer(session: GuardedSession, keeper: Keeper | None, inputs: NDArray[Any]) -> Answers:
    """Answer a batch, and keep what is flagged; a full disk fails no request."""
    answers = session.classify(inputs)
    if keeper is not None and answers.flags.any():
        keeper.keep(inputs[answers.flags])
    return answers


async def read_body(request: Request) -> bytes:
    """The body, no larger than the middleware lets through, and complete in time.

    Raises:
        HTTPException: 408, it is not.
    """
    try:
        async with asyncio.timeout(SECONDS_FOR_A_BODY):
            return await request.body()
    except TimeoutError as error:
        raise HTTPException(408, f"the whole body expected within {SECONDS_FOR_A_BODY:g} s") from error


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
    except _NO_ARRAY as error:
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
        get = os.environ.get
        return create_app(
            os.environ["PATCHER_MODEL"], sha256=get("PATCHER_MODEL_SHA256"), keep_flagged=get("PATCHER_KEEP_FLAGGED")
        )
    raise AttributeError(name)


def main(arguments: list[str] | None = None) -> int:
    """Serve one model, options from the command line."""
    import uvicorn

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="hardened model")
    parser.add_argument("--sha256", help="its expected hash")
    parser.add_argument("--keep-flagged", metavar="DIR", help="keep flagged inputs for review")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args(arguments)
    app = create_app(options.model, sha256=options.sha256, keep_flagged=options.keep_flagged)
    uvicorn.run(app, host=options.host, port=options.port)
    return 0


if __name__ == "__main__":
    sys.exit(main())
