# SPDX-License-Identifier: Apache-2.0
"""PNG and JPEG bytes to the input of a hardened model, preprocessed as its metadata says.

A hardened file carries the preprocessing that it was calibrated with (key ``patcher.preprocess``), so that a service
has nothing to configure and nothing to get wrong. Needs onnxruntime, numpy and Pillow.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patcher.data.preprocess import Preprocess
from patcher.errors import InputError

FORMATS = ("PNG", "JPEG")
MOST_PIXELS = 2**24
KEY = "patcher.preprocess"
ELEMENT_TYPES: Mapping[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}


def preprocess_of(metadata: Mapping[str, str]) -> Preprocess:
    """The preprocessing that a hardened model names.

    Args:
        metadata: Of the model; `patcher.runtime.GuardedSession` has it.

    Raises:
        InputError: It names none, or none that can be followed.
    """
    try:
        values = json.loads(metadata[KEY])
        given: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return Preprocess(**given)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(
            f"a model with its preprocessing in metadata key {KEY} expected, found none to follow"
        ) from error


def read_picture(content: bytes, preprocess: Preprocess, kind: str = "tensor(float)") -> NDArray[Any]:
    """One picture as the model's input.

    Args:
        content: A PNG or JPEG file's bytes.
        preprocess: What `preprocess_of` gives.
        kind: Element type of the input as onnxruntime names it.

    Returns:
        ``(1, C, H, W)`` or ``(1, H, W, C)``, in the type of the input.

    Raises:
        InputError: It is no such picture, or has more than 2^24 pixels.
    """
    from PIL import Image

    try:
        # The header alone: nothing is decoded before its size is known.
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            width, height = picture.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError("the body: a PNG or JPEG picture expected, found none that can be read") from error
    if width * height > MOST_PIXELS:
        raise InputError(f"the body: a picture of at most {MOST_PIXELS} pixels expected, found {width}x{height}")
    pixels = preprocess.decode(io.BytesIO(content), "the body")[None] / np.float32(255)
    inputs = preprocess.to_input(pixels.astype(np.float32))
    element = ELEMENT_TYPES.get(kind, np.float32)
    return np.ascontiguousarray(np.rint(inputs) if element is np.uint8 else inputs, element)
