# SPDX-License-Identifier: Apache-2.0
"""What a service asks before it trusts: is this the reviewed model, and can these be pictures?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from patcher.errors import InputError


def input_limits(metadata: Mapping[str, str]) -> tuple[float, float]:
    """Least and largest value of a preprocessed picture, a twentieth of the range wider for resampling.

    Args:
        metadata: Of a hardened model; without a preprocessing in it, every finite number is a value.
    """
    try:
        found = json.loads(metadata["patcher.preprocess"])
        white = 255.0 if found["range"] == "0-255" else 1.0
        pairs = [(float(mean), float(std)) for mean, std in zip(found["mean"], found["std"], strict=True)]
        low, high = (f(((v - m) / s) * white for m, s in pairs) for f, v in ((min, 0.0), (max, 1.0)))
    except (KeyError, TypeError, ValueError, ZeroDivisionError, RecursionError):
        largest = float(np.finfo(np.float32).max)
        return -largest, largest
    slack = (high - low) / 20
    return low - slack, high + slack


def read_once(path: Path, expected: str | None) -> bytes:
    """A model file's bytes, read once, so that what was compared is what is loaded.

    Raises:
        InputError: It is not there, or not the one that was reviewed.
    """
    if not path.is_file():
        raise InputError(f"model not found: {path}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    found = hashlib.sha256(content).hexdigest()
    if expected is not None and found != expected:
        raise InputError(f"{path}: sha256 {expected} expected, found {found}; this is not the model that was reviewed")
    return content
