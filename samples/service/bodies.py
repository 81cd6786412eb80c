# SPDX-License-Identifier: Apache-2.0
"""What a request may carry: one `.npy` array, or one PNG or JPEG picture, told apart by the Content-Type."""

from __future__ import annotations

import asyncio
import io
import math
import tokenize
from typing import Any

import numpy as np
from fastapi import HTTPException, Request
from numpy.typing import NDArray

from patcher.errors import InputError
from patcher.pictures import ELEMENT_TYPES, preprocess_of, read_picture
from patcher.runtime import GuardedSession

MAX_IMAGES = 64
SECONDS_FOR_A_BODY = 10.0
_PICTURES = ("image/png", "image/jpeg")
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


def read_inputs(body: bytes, content_type: str, session: GuardedSession) -> NDArray[Any]:
    """A body as the model's input ``(N, ...)``.

    Raises:
        HTTPException: 400, it is neither array nor picture; 422, it is not what the model takes.
    """
    if content_type.partition(";")[0].strip().lower() not in _PICTURES:
        return _checked(_read_array(body), session)
    try:
        preprocess = preprocess_of(session.metadata)
    except InputError as error:
        raise HTTPException(422, str(error)) from error
    try:
        return _checked(read_picture(body, preprocess, session.input.type), session)
    except InputError as error:
        raise HTTPException(400, str(error)) from error


def _read_array(body: bytes) -> NDArray[Any]:
    try:
        stream = io.BytesIO(body)
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(stream)
        # The header may promise more than the body holds; nothing is allocated before that is known.
        if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(body) - stream.tell():
            raise ValueError("the header does not fit the body")
        stream.seek(0)
        array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    except _NO_ARRAY as error:
        raise HTTPException(400, "the body must be one .npy array of numbers, or a PNG or JPEG picture") from error
    return array


def _checked(array: NDArray[Any], session: GuardedSession) -> NDArray[Any]:
    kind = ELEMENT_TYPES.get(session.input.type, np.float32)
    expected = [side if isinstance(side, int) else None for side in session.input.shape[1:]]
    fits = array.ndim == len(expected) + 1 and all(
        wanted in (None, found) for wanted, found in zip(expected, array.shape[1:], strict=True)
    )
    if not fits or array.dtype != kind or not 1 <= len(array) <= MAX_IMAGES:
        raise HTTPException(422, f"1 to {MAX_IMAGES} images of shape {expected} and type {np.dtype(kind)} expected")
    if not np.isfinite(array).all():
        raise HTTPException(422, "finite numbers expected")
    return array
