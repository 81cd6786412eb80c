# SPDX-License-Identifier: Apache-2.0
"""Model files: reading with external data, writing whole or not at all.

External data is brought inline when a model is read, so everything after works on one object. It is
written beside the output only where protobuf's 2 GB limit leaves no choice.
"""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped, unused-ignore]
from onnx.external_data_helper import set_external_data, uses_external_data

from patcher.errors import InputError
from patcher.files import staged_file
from patcher.model.subgraphs import subgraphs

# protobuf cannot serialise more; the margin leaves room for the metadata keys added later.
INLINE_LIMIT = 2**31 - 2**20
_CHUNK = 1 << 20
_BITS: dict[int, int] = {
    onnx.TensorProto.FLOAT: 32,
    onnx.TensorProto.INT32: 32,
    onnx.TensorProto.UINT32: 32,
    onnx.TensorProto.FLOAT16: 16,
    onnx.TensorProto.BFLOAT16: 16,
    onnx.TensorProto.INT16: 16,
    onnx.TensorProto.UINT16: 16,
    onnx.TensorProto.INT8: 8,
    onnx.TensorProto.UINT8: 8,
    onnx.TensorProto.BOOL: 8,
}
# Smaller tensors stay in the model file: shape inference reads their values.
_EXTERNAL_THRESHOLD = 1024


def load_file(path: Path) -> tuple[onnx.ModelProto, str]:
    """Read a model file with its external data.

    Returns:
        The model with all weights inline, and the sha256 of the file's bytes followed by those of
        each external data file in the order of first use.

    Raises:
        InputError: The file is missing, empty, truncated or no ONNX model, or its external data is
            missing, too short, or outside of the model's folder.
    """
    if not path.exists():
        raise InputError(f"model not found: {path}")
    if path.is_dir():
        raise InputError(f"model is a folder: {path}; name the .onnx file in it")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    proto = parse(content, str(path))
    digest = hashlib.sha256(content)
    del content
    for data_file in _inline_external_data(proto, path.parent, str(path)):
        with data_file.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    return proto, digest.hexdigest()


def external_files(path: Path) -> list[Path]:
    """The external data files of a model file, in order of first use; errors as `load_file`."""
    tensors = [tensor for tensor in all_tensors(parse(path.read_bytes(), str(path))) if uses_external_data(tensor)]
    places = ({entry.key: entry.value for entry in item.external_data}.get("location", "") for item in tensors)
    return list(dict.fromkeys(_data_file(at, path.parent, "of it", str(path)) for at in places))


def parse(content: bytes, name: str) -> onnx.ModelProto:
    """Parse a serialised model.

    Raises:
        InputError: The bytes are empty, truncated or no ONNX model.
    """
    if not content:
        raise InputError(f"{name}: the file is empty; an ONNX model was expected")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except (DecodeError, RuntimeError, ValueError) as error:
        raise InputError(f"{name}: not an ONNX model, or truncated ({len(content)} bytes read)") from error
    if not proto.HasField("graph") or not proto.ir_version:
        raise InputError(f"{name}: not an ONNX model (no graph in {len(content)} bytes)")
    return proto


def all_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every constant of a model: initializers and tensor attributes, in subgraphs and functions too."""
    yield from _graph_tensors(proto.graph)
    for function in proto.functions:
        yield from _node_tensors(function.node)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
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


def fits_inline(proto: onnx.ModelProto) -> bool:
    """Whether a model stays below protobuf's limit, told by its weights' dimensions.

    ``ByteSize`` would serialise the whole model to find out.
    """
    size = 0
    for tensor in all_tensors(proto):
        bits = _BITS.get(tensor.data_type, 64)
        size += math.prod(tensor.dims) * bits // 8
    return size < INLINE_LIMIT


def serialize(proto: onnx.ModelProto) -> bytes:
    """Serialise a model; the same model gives the same bytes.

    Raises:
        InputError: The model is beyond protobuf's 2 GB limit.
    """
    try:
        content: bytes = proto.SerializeToString(deterministic=True)
    except (EncodeError, ValueError) as error:
        raise InputError("the model is larger than 2 GB; give its path and write it with write_model") from error
    return content


@contextmanager
def loadable(proto: onnx.ModelProto) -> Iterator[bytes | Path]:
    """Yield what onnxruntime and the checker can load: bytes, or a temporary file beyond 2 GB."""
    if fits_inline(proto):
        yield serialize(proto)
        return
    with tempfile.TemporaryDirectory(prefix="patcher-") as folder:
        path = Path(folder) / "model.onnx"
        write_model(proto, path)
        yield path


def write_model(proto: onnx.ModelProto, path: str | os.PathLike[str]) -> str:
    """Write a model, whole or not at all.

    Above 2 GB the weights go to ``<name>.data`` beside the model, which is replaced, never appended
    to; a failure leaves neither file behind.

    Args:
        proto: The model, weights inline; it is not modified.
        path: Where to write it.

    Returns:
        The sha256 of what was written, as :func:`load_file` computes it.

    Raises:
        InputError: The folder is missing or the file system refuses (full disk, permissions).
    """
    path = Path(path)
    if fits_inline(proto):
        content = serialize(proto)
        with staged_file(path) as staged:
            _write(staged, content)
        return hashlib.sha256(content).hexdigest()
    data_path = path.with_name(path.name + ".data")
    with staged_file(path) as staged, staged_file(data_path) as staged_data:
        content, digest = _write_external(proto, staged_data, data_path.name)
        _write(staged, content)
    return digest


def write_unchanged(proto: onnx.ModelProto, sha256: str, source: Path | None, path: str | os.PathLike[str]) -> None:
    """Write a model as it came: the bytes of its file, where it came from one without external data.

    Args:
        proto: The model as it was read.
        sha256: Its hash as it was read.
        source: Its file, if it came from one.
        path: Where to write it.

    Raises:
        InputError: The folder is missing or the file system refuses.
    """
    content = source.read_bytes() if source is not None else b""
    if hashlib.sha256(content).hexdigest() != sha256:
        write_model(proto, path)
        return
    with staged_file(Path(path)) as staged:
        _write(staged, content)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _write_external(proto: onnx.ModelProto, data_path: Path, location: str) -> tuple[bytes, str]:
    """Write large initializers to ``data_path``; return the model's bytes without them and the hash of both."""
    slim = onnx.ModelProto()
    slim.CopyFrom(proto)
    data_digest = hashlib.sha256()
    offset = 0
    with data_path.open("wb") as stream:
        for tensor in slim.graph.initializer:
            if tensor.HasField("raw_data") and len(tensor.raw_data) >= _EXTERNAL_THRESHOLD:
                content = tensor.raw_data
                stream.write(content)
                data_digest.update(content)
                set_external_data(tensor, location, offset=offset, length=len(content))
                tensor.ClearField("raw_data")
                offset += len(content)
        stream.flush()
        os.fsync(stream.fileno())
    body = serialize(slim)
    digest = hashlib.sha256(body)
    with data_path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return body, digest.hexdigest()


def _inline_external_data(proto: onnx.ModelProto, folder: Path, name: str) -> list[Path]:
    """Bring every tensor's external data inline; return the files it came from, in order of first use."""
    files: list[Path] = []
    for tensor in all_tensors(proto):
        if not uses_external_data(tensor):
            continue
        keys = {entry.key: entry.value for entry in tensor.external_data}
        file = _data_file(keys.get("location", ""), folder, tensor.name, name)
        try:
            offset, length = int(keys.get("offset") or 0), int(keys.get("length") or -1)
        except ValueError as error:
            raise InputError(f"{name}: tensor {tensor.name!r} has an external data offset that is no number") from error
        tensor.raw_data = _read_range(file, offset, length, f"{name}: tensor {tensor.name!r}")
        tensor.ClearField("data_location")
        del tensor.external_data[:]
        if file not in files:
            files.append(file)
    return files


def _data_file(location: str, folder: Path, tensor: str, name: str) -> Path:
    root = folder.resolve()
    file = (root / location).resolve()
    if not location or Path(location).is_absolute() or not file.is_relative_to(root):
        raise InputError(
            f"{name}: tensor {tensor!r} points to external data outside of the model's folder ({location!r}); "
            "put the data file beside the model and export it again with a relative name"
        )
    if not file.is_file():
        raise InputError(f"{name}: external data file not found: {file}; copy it beside the model")
    return file


def _read_range(file: Path, offset: int, length: int, what: str) -> bytes:
    size = file.stat().st_size
    wanted = size - offset if length < 0 else length
    if offset < 0 or wanted < 0 or offset + wanted > size:
        raise InputError(f"{what} needs {wanted} bytes at {offset} of {file.name}, which has {size}; it is truncated")
    try:
        with file.open("rb") as stream:
            stream.seek(offset)
            return stream.read(wanted)
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from error


def model_sha256(proto: onnx.ModelProto) -> str | None:
    """Hash of the file that :func:`write_model` makes; ``None`` beyond 2 GB, where it depends on the file's name."""
    return hashlib.sha256(serialize(proto)).hexdigest() if proto.ByteSize() < INLINE_LIMIT else None
