# SPDX-License-Identifier: Apache-2.0
"""Figures of a scan as a file that holds no code: dataclasses to JSON and arrays, and back by their type hints.

One ``.npz``: ``figures``, the JSON text as bytes, in which an array is named by its number, and the arrays. Equal
figures give equal bytes.
"""

from __future__ import annotations

import io
import json
import types
import typing
import zipfile
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
_TEXT = "figures"
_NO_TIME = (1980, 1, 1, 0, 0, 0)


def pack(value: Any) -> bytes:
    """A dataclass of figures as the bytes of a file."""
    arrays: list[NDArray[Any]] = []
    text = json.dumps(_plain(value, arrays))
    named = {_TEXT: np.frombuffer(text.encode(), np.uint8)}
    named |= {str(number): array for number, array in enumerate(arrays)}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in named.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy", _NO_TIME), "w") as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
    return buffer.getvalue()


def unpack(kind: type[T], content: bytes) -> T:
    """What `pack` was given.

    Args:
        kind: Its class.
        content: What `pack` returned.
    """
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    made: T = _typed(kind, json.loads(arrays[_TEXT].tobytes()), arrays)
    return made


def _plain(value: Any, arrays: list[NDArray[Any]]) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {part.name: _plain(getattr(value, part.name), arrays) for part in fields(value)}
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return str(len(arrays) - 1)
    if isinstance(value, Mapping):
        return [[_plain(key, arrays), _plain(item, arrays)] for key, item in value.items()]
    if isinstance(value, tuple | list):
        return [_plain(item, arrays) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def _typed(hint: Any, value: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        kept = next(part for part in inner if part is not types.NoneType)
        return None if value is None else _typed(kept, value, arrays)
    if is_dataclass(hint) and isinstance(hint, type):
        hints = typing.get_type_hints(hint)
        return hint(**{name: _typed(hints[name], item, arrays) for name, item in value.items()})
    if origin is np.ndarray:
        return arrays[value]
    if origin is tuple:
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
        return tuple(_typed(part, item, arrays) for part, item in zip(kinds, value, strict=True))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {_typed(inner[0], key, arrays): _typed(inner[1], item, arrays) for key, item in value}
    return value
