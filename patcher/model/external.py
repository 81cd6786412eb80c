# SPDX-License-Identifier: Apache-2.0
"""External data: weights in files beside the model, read once and brought inline.

What is read here must be what a runtime reads. So an entry that readers may take differently (a key twice, an offset
that is no plain decimal number, a location that ONNX Runtime takes for an address in memory) is refused, and a file is
hashed by the same pass that hands its weights on: it cannot be swapped in between.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from onnx.external_data_helper import uses_external_data

from patcher.errors import InputError
from patcher.model.subgraphs import subgraphs

_CHUNK = 1 << 20
_NUMBER = re.compile(r"[0-9]{1,18}")
_KEYS = ("location", "offset", "length")


def all_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every constant of a model: initializers and tensor attributes, sparse ones, in subgraphs and functions too."""
    yield from _graph_tensors(proto.graph)
    for function in proto.functions:
        yield from _node_tensors(function.node)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("sparse_tensor"):
                yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
            yield from attribute.tensors
        for graph in subgraphs(node):
            yield from _graph_tensors(graph)


def refuse_external_data(proto: onnx.ModelProto) -> None:
    """Refuse a model given in memory whose weights lie in a file nobody named.

    Raises:
        InputError: A tensor points to external data.
    """
    for tensor in all_tensors(proto):
        if uses_external_data(tensor):
            raise InputError(f"tensor {tensor.name!r} has external data; give the model's path instead of its bytes")


@dataclass
class _Range:
    """Where a tensor's bytes lie.

    Attributes:
        tensor: The tensor.
        offset: First byte.
        length: Number of bytes; ``None`` for all up to the end.
        parts: What was read of it.
    """

    tensor: onnx.TensorProto
    offset: int
    length: int | None
    parts: list[bytes] = field(default_factory=list)


def inline_external_data(proto: onnx.ModelProto, folder: Path, name: str, digest: Any) -> None:
    """Bring every tensor's external data inline, in place.

    Args:
        proto: The model.
        folder: Its folder.
        name: Its name, for messages.
        digest: A hash that takes the bytes of each data file, in the order of first use.

    Raises:
        InputError: A file is missing, too short, or outside of the folder, or an entry is ambiguous.
    """
    for file, ranges in _files(proto, folder, name).items():
        try:
            _read(file, ranges, digest, name)
        except OSError as error:
            raise InputError(f"cannot read {file}: {error.strerror or error}") from error


def external_files(proto: onnx.ModelProto, folder: Path, name: str) -> list[Path]:
    """The external data files of a model, in order of first use.

    Args:
        proto: The model.
        folder: Its folder.
        name: Its name, for messages.

    Raises:
        InputError: A file is missing or outside of the folder, or an entry is ambiguous.
    """
    return list(_files(proto, folder, name))


def _files(proto: onnx.ModelProto, folder: Path, name: str) -> dict[Path, list[_Range]]:
    files: dict[Path, list[_Range]] = {}
    for tensor in all_tensors(proto):
        if uses_external_data(tensor):
            file, wanted = _place(tensor, folder, f"{name}: tensor {tensor.name!r}")
            files.setdefault(file, []).append(wanted)
    return files


def _place(tensor: onnx.TensorProto, folder: Path, what: str) -> tuple[Path, _Range]:
    found: dict[str, str] = {}
    for entry in tensor.external_data:
        if entry.key in found and entry.key in _KEYS:
            raise InputError(f"{what} names its external data's {entry.key} twice; export the model again")
        found[entry.key] = entry.value
    numbers = {key: found[key] for key in _KEYS[1:] if key in found}
    for key, text in numbers.items():
        if not _NUMBER.fullmatch(text):
            raise InputError(f"{what} has an external data {key} that is no number: {text[:40]!r}")
    length = int(numbers["length"]) if "length" in numbers else None
    return _data_file(found.get("location", ""), folder, what), _Range(tensor, int(numbers.get("offset", 0)), length)


def _data_file(location: str, folder: Path, what: str) -> Path:
    root = folder.resolve()
    try:
        file = (root / location).resolve()
        inside, there = file.is_relative_to(root) and file != root, file.is_file()
    except (OSError, ValueError, RuntimeError):  # a null byte, a name too long, links in a circle
        inside = False
    # ONNX Runtime takes locations that begin with an asterisk for addresses in memory.
    if not inside or Path(location).is_absolute() or location.startswith("*"):
        raise InputError(
            f"{what} points to external data outside of the model's folder ({location[:80]!r}); "
            "put the data file beside the model and export it again with a relative name"
        )
    if not there:
        raise InputError(f"{what}: external data file not found: {file}; copy it beside the model")
    return file


def _read(file: Path, ranges: list[_Range], digest: Any, name: str) -> None:
    """Read a data file once: into the hash, and into the tensors that lie in it."""
    with file.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        ends = [max(size, item.offset) if item.length is None else item.offset + item.length for item in ranges]
        position = 0
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            for item, end in zip(ranges, ends, strict=True):
                low, high = max(item.offset - position, 0), min(end - position, len(chunk))
                if low < high:
                    item.parts.append(chunk[low:high])
            position += len(chunk)
    for item, end in zip(ranges, ends, strict=True):
        content = b"".join(item.parts)
        item.parts.clear()
        if end > position or item.offset > position or len(content) != end - item.offset:
            raise InputError(
                f"{name}: tensor {item.tensor.name!r} needs {end - item.offset} bytes at {item.offset} of {file.name}, "
                f"which has {position}; it is truncated"
            )
        item.tensor.raw_data = content
        item.tensor.ClearField("data_location")
        del item.tensor.external_data[:]
