# SPDX-License-Identifier: Apache-2.0
"""The patch: what calibration hands to export, as plain data.

A patch names tensors of one particular model (by its sha256) and the correction for each. It is
saved as one ``.safetensors`` file: arrays as tensors, everything else as JSON metadata, so it can be
reviewed, signed and applied again without the calibration images. The same patch gives the same
bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from patcher.corrections import (
    CORRECTION_KINDS,
    Affine,
    Array,
    Bias,
    Branch,
    BranchForm,
    Correction,
    Flag,
    MaskForm,
    MeanBound,
    Normalization,
    Part,
    Realignment,
    UpperBound,
    Watch,
    WeightMask,
    Weights,
)
from patcher.errors import InputError
from patcher.files import replace_file

FORMAT_VERSION = 1
_METADATA_KEY = "patcher"
_METHOD = re.compile(r"[a-z][a-z0-9_-]*(\+[a-z][a-z0-9_-]*)*")
_LONGEST_REASON = 200

__all__ = [
    "CORRECTION_KINDS",
    "Affine",
    "Array",
    "Bias",
    "Branch",
    "BranchForm",
    "Correction",
    "Flag",
    "MaskForm",
    "MeanBound",
    "Normalization",
    "Part",
    "Patch",
    "Realignment",
    "UpperBound",
    "Watch",
    "WeightMask",
    "Weights",
    "flat_corrections",
    "parse_patch",
    "patch_bytes",
    "patch_sha256",
    "read_patch",
    "write_patch",
]


@dataclass(frozen=True)
class Patch:
    """Corrections for one model, and where they came from.

    Attributes:
        method: Name of the method that made it.
        source_sha256: Hash of the model it was calibrated on.
        corrections: What to change, in graph order.
        options: The method's options as plain JSON values.
        clean_data_sha256: Hash of the clean set.
        preprocess: The resolved preprocessing as plain JSON values.
    """

    method: str
    source_sha256: str
    corrections: tuple[Correction, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    clean_data_sha256: str = ""
    preprocess: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        texts = {"source_sha256": self.source_sha256, "clean_data_sha256": self.clean_data_sha256}
        if wrong := [name for name, value in texts.items() if not isinstance(value, str)]:
            raise ValueError(f"{wrong[0]} is no text")
        if not isinstance(self.options, Mapping) or not isinstance(self.preprocess, Mapping):
            raise ValueError("options and preprocess are no tables")
        if not isinstance(self.method, str) or not _METHOD.fullmatch(self.method):
            raise ValueError(f"a method's name expected, found {str(self.method)[:40]!r}")
        if not all(type(item).__name__ in CORRECTION_KINDS for item in self.corrections):
            raise ValueError("a patch takes corrections only")
        seen = set()
        for item in flat_corrections(self.corrections):
            place = (type(item).__name__, str(getattr(item, "tensor", "") or getattr(item, "initializer", "")))
            if place in seen:
                raise ValueError(f"two corrections {place[0]} of {place[1][:80]!r}")
            seen.add(place)


_CORRECTION_TYPES: dict[str, type[Correction | Part]] = {
    kind.__name__: kind for kind in (*get_args(Correction), *get_args(Part))
}


def flat_corrections(corrections: Iterable[Correction]) -> Iterator[Correction | Part]:
    """Corrections one by one, the parts of a branch or a flag in its place."""
    for item in corrections:
        if isinstance(item, Branch):
            yield from item.corrections
        elif isinstance(item, Flag):
            yield from item.sites
        else:
            yield item


def patch_bytes(patch: Patch) -> bytes:
    """Serialise a patch to the bytes of a ``.safetensors`` file; the same patch gives the same bytes."""
    from safetensors.numpy import save

    arrays: dict[str, NDArray[Any]] = {}
    document = {
        "format_version": FORMAT_VERSION,
        "method": patch.method,
        "source_sha256": patch.source_sha256,
        "clean_data_sha256": patch.clean_data_sha256,
        "options": dict(patch.options),
        "preprocess": dict(patch.preprocess),
        "corrections": [_pack(item, f"{i}", arrays) for i, item in enumerate(patch.corrections)],
    }
    # One metadata key only: safetensors writes several in the random order of a hash map.
    return save(arrays, metadata={_METADATA_KEY: json.dumps(document, sort_keys=True)})


def patch_sha256(patch: Patch) -> str:
    """Hash of the patch's file bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(patch_bytes(patch)).hexdigest()


def write_patch(patch: Patch, path: str | os.PathLike[str]) -> None:
    """Write a patch to a file, whole or not at all.

    Raises:
        InputError: The folder is missing or the file cannot be written.
    """
    replace_file(Path(path), patch_bytes(patch))


def read_patch(path: str | os.PathLike[str]) -> Patch:
    """Read a patch file.

    Raises:
        InputError: The file is missing, is no safetensors file, or holds no patch of this format.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"patch not found: {path}; make one with 'patcher calibrate ... -o PATCH'")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    return parse_patch(content, str(path))


def parse_patch(content: bytes, name: str) -> Patch:
    """A patch from the bytes of its file.

    Raises:
        InputError: They are no safetensors file, or hold no patch of this format.
    """
    from safetensors import SafetensorError

    try:
        return _parsed(content)
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        reason = " ".join(reason.split())[:_LONGEST_REASON]
        raise InputError(f"{name}: not a patch file written by patcher ({reason})") from error


def _parsed(content: bytes) -> Patch:
    from safetensors.numpy import load

    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    document = json.loads(header.get("__metadata__", {})[_METADATA_KEY])
    if document["format_version"] != FORMAT_VERSION:
        raise ValueError(f"format version {FORMAT_VERSION} expected, found {document['format_version']!r}")
    arrays = load(content)
    return Patch(
        method=document["method"],
        source_sha256=document["source_sha256"],
        clean_data_sha256=document["clean_data_sha256"],
        options=document["options"],
        preprocess=document["preprocess"],
        corrections=tuple(_unpack(item, arrays) for item in document["corrections"]),
    )


def _pack(item: Correction | Part, prefix: str, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """Split a correction into JSON values and arrays; the arrays are named by their place."""
    entry: dict[str, Any] = {"type": type(item).__name__}
    for part in fields(item):
        value = getattr(item, part.name)
        if isinstance(value, np.ndarray):
            key = f"{prefix}.{part.name}"
            arrays[key] = np.ascontiguousarray(value).reshape(value.shape)
            entry[part.name] = {"array": key}
        elif isinstance(value, tuple):
            entry[part.name] = [
                _pack(inner, f"{prefix}.{part.name}.{index}", arrays) if isinstance(inner, Part) else inner
                for index, inner in enumerate(value)
            ]
        else:
            entry[part.name] = value
    return entry


def _unpack(entry: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Correction:
    kind = _CORRECTION_TYPES[entry["type"]]
    values = {part.name: _unpacked(entry[part.name], arrays) for part in fields(kind)}
    for part in fields(kind):
        # Annotations are text: "Array" and "NDArray[Any]" hold arrays, everything else plain values.
        if ("Array" in str(part.type)) != isinstance(values[part.name], np.ndarray):
            raise ValueError(f"{entry['type']}.{part.name} is of another kind")
        if part.type == "str" and not isinstance(values[part.name], str):
            raise ValueError(f"{entry['type']}.{part.name} is no text")
    return cast(Correction, kind(**values))


def _unpacked(value: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    if isinstance(value, list):
        return tuple(_unpacked(inner, arrays) for inner in value)
    if isinstance(value, dict):
        return _unpack(value, arrays) if "type" in value else arrays[value["array"]]
    return value
