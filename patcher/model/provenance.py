# SPDX-License-Identifier: Apache-2.0
"""Where a hardened model came from: metadata keys in the model itself.

There is no time stamp among them: the same model, patch and version give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx

from patcher._version import __version__
from patcher.errors import InputError
from patcher.patch import Patch, patch_sha256

_PREFIX = "patcher."


@dataclass(frozen=True)
class Provenance:
    """What a hardened model says about itself.

    Attributes:
        version: Version of this project that wrote it.
        method: Name of the method.
        options: The method's options.
        source_sha256: Hash of the model before.
        clean_data_sha256: Hash of the clean set.
        preprocess: The resolved preprocessing.
        patch_sha256: Hash of the patch file.
    """

    version: str
    method: str
    options: Mapping[str, Any]
    source_sha256: str
    clean_data_sha256: str
    preprocess: Mapping[str, Any]
    patch_sha256: str


def provenance_of(patch: Patch) -> Provenance:
    """What a model hardened with this patch will say about itself."""
    return Provenance(
        version=__version__,
        method=patch.method,
        options=dict(patch.options),
        source_sha256=patch.source_sha256,
        clean_data_sha256=patch.clean_data_sha256,
        preprocess=dict(patch.preprocess),
        patch_sha256=patch_sha256(patch),
    )


def write_provenance(proto: onnx.ModelProto, provenance: Provenance) -> None:
    """Set the metadata keys on a model, in place; every other entry stays where it is.

    Keys of an earlier hardening are replaced: ``source_sha256`` names the model that carried them.
    """
    kept = [(entry.key, entry.value) for entry in proto.metadata_props if not entry.key.startswith(_PREFIX)]
    del proto.metadata_props[:]
    for key, value in (*kept, *_entries(provenance)):
        proto.metadata_props.add(key=key, value=value)


def read_provenance(proto: onnx.ModelProto) -> Provenance | None:
    """Read the metadata keys of a hardened model.

    Returns:
        The provenance, or ``None`` for a model this project did not write.

    Raises:
        InputError: Keys are missing or damaged.
    """
    found = {
        entry.key.removeprefix(_PREFIX): entry.value for entry in proto.metadata_props if entry.key.startswith(_PREFIX)
    }
    if not found:
        return None
    try:
        return Provenance(
            version=found["version"],
            method=found["method"],
            options=_json_object(found["options"]),
            source_sha256=found["source_sha256"],
            clean_data_sha256=found["clean_data_sha256"],
            preprocess=_json_object(found["preprocess"]),
            patch_sha256=found["patch_sha256"],
        )
    except (KeyError, ValueError, RecursionError) as error:
        raise InputError(
            f"the model's provenance is damaged: metadata key patcher.* missing or unreadable ({error})"
        ) from error


def _entries(provenance: Provenance) -> list[tuple[str, str]]:
    return [
        (_PREFIX + "version", provenance.version),
        (_PREFIX + "method", provenance.method),
        (_PREFIX + "options", json.dumps(provenance.options, sort_keys=True)),
        (_PREFIX + "source_sha256", provenance.source_sha256),
        (_PREFIX + "clean_data_sha256", provenance.clean_data_sha256),
        (_PREFIX + "preprocess", json.dumps(provenance.preprocess, sort_keys=True)),
        (_PREFIX + "patch_sha256", provenance.patch_sha256),
    ]


def _json_object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"an object expected, found {text[:40]!r}")
    return value
