# SPDX-License-Identifier: Apache-2.0
"""Write the folder from which Triton or KServe serves a hardened model: `patcher export-serving`. Needs no torch."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx

from patcher.errors import InputError
from patcher.files import Source, replace_file, staged_file
from patcher.model.external import external_files
from patcher.serving.interface import Interface, read_interface
from patcher.serving.kserve import request_text, service_text
from patcher.serving.triton import config_text

Server = Literal["triton", "kserve"]
# What KServe, whose services have names of DNS, allows; Triton takes it as well.
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")


@dataclass(frozen=True)
class ExportResult:
    """What `export_serving` wrote.

    Attributes:
        folder: Where.
        name: Of the model on the server.
        interface: Inputs and outputs as the server names them.
        files: Every file, below `folder`.
    """

    folder: Path
    name: str
    interface: Interface
    files: tuple[str, ...]


def export_serving(
    model: Source,
    *,
    to: Server,
    output: Source,
    name: str | None = None,
    max_batch: int = 64,
    storage_uri: str | None = None,
) -> ExportResult:
    """Write the folder from which a server serves a hardened model.

    Args:
        model: The hardened model, in one file or with external data.
        to: The server.
        output: The folder; it must not be there, or be empty.
        name: Of the model on the server; the file's name as far as one can be made of it.
        max_batch: Images a run at most, where the model can be batched.
        storage_uri: For KServe: where the folder ``models`` will lie.

    Raises:
        InputError: The model cannot be served so, or a value is out of range.
    """
    path, folder = Path(model), Path(output)
    if not path.is_file():
        raise InputError(f"model not found: {path}")
    if max_batch < 1:
        raise InputError(f"--max-batch: at least 1 expected, found {max_batch}")
    if (to == "kserve") != (storage_uri is not None):
        where = "expected with --to kserve" if to == "kserve" else "belongs to --to kserve"
        raise InputError(f"--storage-uri: {where}: where the folder models will lie, e.g. s3://bucket/models")
    name = _checked_name(path, name)
    interface = read_interface(path)
    texts: dict[str, str] = {}
    models = folder if to == "triton" else folder / "models"
    _make(folder, models / name / "1")
    if storage_uri is not None:
        texts = {"inferenceservice.json": service_text(name, storage_uri), "request.json": request_text(interface)}
    return ExportResult(
        folder,
        name,
        interface,
        _write(path, folder, models / name, config_text(interface, name, max_batch=max_batch), texts),
    )


def _checked_name(path: Path, name: str | None) -> str:
    found = re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-") if name is None else name
    if not _NAME.fullmatch(found):
        raise InputError(
            f"--name: small letters, digits and hyphens expected, a letter first, 63 at most, found {found!r}"
        )
    return found


def _make(folder: Path, version: Path) -> None:
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder}: a new or empty folder expected; choose another -o/--output")
        version.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"cannot make {version}: {error.strerror}; choose another -o/--output") from error


def _write(path: Path, folder: Path, place: Path, config: str, texts: Mapping[str, str]) -> tuple[str, ...]:
    """Write everything; the model last, so that a server that watches the folder finds it complete."""
    for name, text in texts.items():
        replace_file(folder / name, text.encode())
    replace_file(place / "config.pbtxt", config.encode())
    proto = onnx.load(path, load_external_data=False)
    root = path.parent.resolve()
    for file in external_files(proto, path.parent, str(path)):
        target = place / "1" / file.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy(file, target)
    _copy(path, place / "1" / "model.onnx")
    return tuple(sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()))


def _copy(source: Path, target: Path) -> None:
    with staged_file(target) as staged:
        shutil.copyfile(source, staged)
