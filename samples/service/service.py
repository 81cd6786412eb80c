# SPDX-License-Identifier: Apache-2.0
"""A small web service around a hardened model: classes, scores, and whether a trigger was detected.

    python service.py digits.hardened.onnx --keep-flagged flagged/
    PATCHER_MODEL=digits.hardened.onnx PATCHER_KEEP_FLAGGED=flagged/ uvicorn service:app --host 127.0.0.1 --port 8000

    POST /classify   body: an .npy array (N, ...) as the model takes it, at most 64 images and 8 MiB; or one picture
                     (Content-Type image/png or image/jpeg), which is preprocessed as the model's metadata says
    GET  /metrics    in Prometheus' text format; telemetry.py names them
    GET  /healthz    200 when the model is loaded

Bodies that are no such array or picture, and values that no picture has, are answered with 4xx; the service never
fails open. A body must be complete in 10 seconds, and 16 may wait at a time: further ones get 503.
PATCHER_MODEL_SHA256 makes the service refuse any other file than the one that was reviewed. Flagged inputs are kept
for review in the folder of --keep-flagged, at most 1000 files and 256 MiB; `patcher harden --method nft --flagged`
reads it. Needs `onnx-patcher[runtime,service]`.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from bodies import read_body, read_inputs  # type: ignore[import-not-found]  # beside this script
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from numpy.typing import NDArray
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from telemetry import Metrics, Observed, Spans  # type: ignore[import-not-found]

from patcher.errors import InputError
from patcher.kept import Keeper
from patcher.runtime import Answers, GuardedSession

MAX_BYTES = 8 * 2**20
MAX_WAITING = 16
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
        app.state.metrics, app.state.spans = Metrics(app.state.session.metadata), Spans()
        yield

    app = FastAPI(title="guarded classifier", lifespan=lifespan)
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=MAX_BYTES)
    # Added last, it is outermost: it sees the status that goes out, whoever chose it.
    app.add_middleware(Observed, path="/classify")

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok", "patch_sha256": app.state.session.metadata.get("patcher.patch_sha256", "")}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(app.state.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.post("/classify")
    async def classify(request: Request) -> dict[str, Any]:
        with app.state.spans.span("classify"):
            answers = await _classified(app.state, request)
        return {
            "labels": answers.labels.tolist(),
            "scores": answers.scores.tolist(),
            "trigger_detected": answers.flags.tolist(),
        }

    return app


async def _classified(state: Any, request: Request) -> Answers:
    """Answer one request, or say why not.

    Raises:
        HTTPException: 503, too many wait; 4xx, it is nothing that the model takes.
    """
    if state.waiting.locked():
        raise HTTPException(503, "busy", {"Retry-After": "1"})
    async with state.waiting:
        body = await read_body(request)
        kind = request.headers.get("content-type", "")
        try:
            return await run_in_threadpool(_answer, state, body, kind)
        except InputError as error:
            raise HTTPException(422, str(error)) from error


def _answer(state: Any, body: bytes, kind: str) -> Answers:
    """Answer a body, and keep what is flagged; a full disk fails no request."""
    session: GuardedSession = state.session
    with state.spans.span("read"):
        inputs: NDArray[Any] = read_inputs(body, kind, session)
    with state.spans.span("infer", images=len(inputs)):
        answers = session.classify(inputs)
    state.metrics.count(len(answers.flags), int(answers.flags.sum()))
    if state.keeper is not None and answers.flags.any():
        state.keeper.keep(inputs[answers.flags])
    return answers


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
