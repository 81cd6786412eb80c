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
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from patcher.errors import InputError
from patcher.files import replace_file

FORMAT_VERSION = 1
_METADATA_KEY = "patcher"

Array = NDArray[np.float32]


@dataclass(frozen=True)
class UpperBound:
    """``min(tensor, bound)`` behind an activation site (UNIT, Cheng et al., ECCV 2024, Sec. 4).

    Attributes:
        tensor: Name of the bounded tensor.
        bound: float32, of the tensor's rank with a leading 1 (``(1, C, 1, 1)`` per channel,
            ``(1, C, H, W)`` per element), or of rank 0 for one bound for the whole tensor.
    """

    tensor: str
    bound: Array


MaskForm = Literal["mask", "weights"]


@dataclass(frozen=True)
class WeightMask:
    """``initializer * mask`` (NFT, Karim et al., ECCV 2024, Sec. 4).

    Attributes:
        initializer: Name of the masked weight, or of a constant tensor made from one.
        mask: float32, of the weight's rank, 1 on every axis but the output channels'.
        form: How it is baked: ``mask`` as a product that the runtime folds, ``weights`` into the values.
    """

    initializer: str
    mask: Array
    form: MaskForm = "mask"


@dataclass(frozen=True)
class Bias:
    """``bias + shift`` of the linear operator or BatchNormalization that makes a tensor.

    Attributes:
        tensor: Name of the operator's output.
        shift: float32, of the tensor's rank with a leading 1, 1 on every axis but the channels'.
    """

    tensor: str
    shift: Array


@dataclass(frozen=True)
class Affine:
    """``scale * tensor + shift`` behind a channel site.

    Attributes:
        tensor: Name of the corrected tensor.
        scale: float32, of the tensor's rank with a leading 1.
        shift: float32, same shape.
    """

    tensor: str
    scale: Array
    shift: Array


@dataclass(frozen=True)
class Normalization:
    """New running statistics for a BatchNormalization.

    Attributes:
        tensor: Name of the BatchNormalization's output (node names may be missing or repeated).
        mean: float32 ``(C,)``.
        var: float32 ``(C,)``.
    """

    tensor: str
    mean: Array
    var: Array


@dataclass(frozen=True)
class Weights:
    """A new value for an initializer, of its shape and type (NONE, Wang et al., NeurIPS 2022)."""

    initializer: str
    value: NDArray[Any]


@dataclass(frozen=True)
class Realignment:
    """``max(min(scale * tensor + shift, upper), lower)`` in a second pass (BNA, Li et al., Sec. 4).

    Attributes:
        tensor: Name of the corrected tensor.
        scale: float32, of the tensor's rank, its first axis the targets of the `Branch`: ``(T, C, 1, 1)``.
        shift: float32, same shape.
        upper: float32, same shape; infinite where there is no bound.
        lower: float32, same shape.
    """

    tensor: str
    scale: Array
    shift: Array
    upper: Array
    lower: Array


BranchForm = Literal["if", "where", "two-files"]


@dataclass(frozen=True)
class Branch:
    """A second pass over the same weights for images that get a detected target class (BNA).

    Attributes:
        targets: Detected target classes, ascending; row i of every `Realignment` belongs to ``targets[i]``.
        corrections: What is different in the second pass, in graph order.
        form: How it is baked: ``if`` runs it on the rows that need it and not at all where none does,
            ``where`` on every row, ``two-files`` in a model of its own.
        keep_original_output: Whether the uncorrected class scores are an output too.
    """

    targets: tuple[int, ...]
    corrections: tuple[Realignment, ...]
    form: BranchForm = "if"
    keep_original_output: bool = False


Correction = UpperBound | WeightMask | Bias | Affine | Normalization | Weights | Branch
CORRECTION_KINDS = frozenset(kind.__name__ for kind in get_args(Correction))


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


_CORRECTION_TYPES: dict[str, type[Correction | Realignment]] = {
    kind.__name__: kind for kind in (UpperBound, WeightMask, Bias, Affine, Normalization, Weights, Branch, Realignment)
}


def flat_corrections(corrections: Iterable[Correction]) -> Iterator[Correction | Realignment]:
    """Corrections one by one, those of a branch in its place."""
    for item in corrections:
        if isinstance(item, Branch):
            yield from item.corrections
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
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise InputError(f"patch not found: {path}; make one with 'patcher calibrate ... -o PATCH'")
    try:
        with safe_open(path, framework="numpy") as file:
            document = json.loads((file.metadata() or {})[_METADATA_KEY])
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if document["format_version"] != FORMAT_VERSION:
            found = document["format_version"]
            raise InputError(f"{path}: patch format version {FORMAT_VERSION} expected, found {found!r}")
        return Patch(
            method=document["method"],
            source_sha256=document["source_sha256"],
            clean_data_sha256=document["clean_data_sha256"],
            options=document["options"],
            preprocess=document["preprocess"],
            corrections=tuple(_unpack(item, arrays) for item in document["corrections"]),
        )
    except (SafetensorError, KeyError, TypeError, ValueError, OSError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not a patch file written by patcher ({reason})") from error


def _pack(item: Correction | Realignment, prefix: str, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
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
                _pack(inner, f"{prefix}.{part.name}.{index}", arrays) if isinstance(inner, Realignment) else inner
                for index, inner in enumerate(value)
            ]
        else:
            entry[part.name] = value
    return entry


def _unpack(entry: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Correction:
    kind = _CORRECTION_TYPES[entry["type"]]
    return cast(Correction, kind(**{part.name: _unpacked(entry[part.name], arrays) for part in fields(kind)}))


def _unpacked(value: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    if isinstance(value, list):
        return tuple(_unpacked(inner, arrays) for inner in value)
    if isinstance(value, dict):
        return _unpack(value, arrays) if "type" in value else arrays[value["array"]]
    return value
