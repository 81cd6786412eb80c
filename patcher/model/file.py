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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped, unused-ignore]
from onnx.external_data_helper import set_external_data

from patcher.errors import InputError
from patcher.files import staged_file
from patcher.model.external import all_tensors, inline_external_data
from patcher.model.subgraphs import walk

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


@dataclass(frozen=True)
class ModelFile:
    """A model file as it was read.

    Attributes:
        proto: The model, weights inline.
        sha256: Hash of the file's bytes followed by those of each external data file in the order of first use.
        canonical: Whether the file's bytes are those that the model serialises to.
    """

    proto: onnx.ModelProto
    sha256: str
    canonical: bool


def load_file(path: Path) -> tuple[onnx.ModelProto, str]:
    """Read a model file with its external data.

    Returns:
        The model with all weights inline, and its hash as in `ModelFile`.

    Raises:
        InputError: The file is missing, empty, truncated or no ONNX model, or its external data is
            missing, too short, or outside of the model's folder.
    """
    found = _load(path, compare=False)
    return found.proto, found.sha256


def load_exactly(path: Path) -> ModelFile:
    """`load_file`, and whether the file holds bytes that its model does not.

    In protobuf a later value of a field replaces an earlier one: a file can hold anything in between, another model
    for another reader too, and still parse to a model that is beyond reproach.
    """
    return _load(path, compare=True)


def _load(path: Path, *, compare: bool) -> ModelFile:
    if not path.exists():
        raise InputError(f"model not found: {path}")
    if path.is_dir():
        raise InputError(f"model is a folder: {path}; name the .onnx file in it")
    if not path.is_file():
        raise InputError(f"model is no regular file: {path}; devices and pipes are not read, name an .onnx file")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    proto = parse(content, str(path))
    canonical = compare and content == serialize(_known(proto))
    digest = hashlib.sha256(content)
    del content
    inline_external_data(proto, path.parent, str(path), digest)
    return ModelFile(proto, digest.hexdigest(), canonical)


def _known(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without fields of a later standard, which other readers may know."""
    known = onnx.ModelProto()
    known.CopyFrom(proto)
    known.DiscardUnknownFields()
    return known


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
    if any(isinstance(text, bytes) for text in _texts(proto)):
        # protobuf hands on as bytes what is no text.
        raise InputError(f"{name}: not a valid ONNX model: a name in it is no UTF-8 text")
    return proto


def _texts(proto: onnx.ModelProto) -> Iterator[object]:
    """Names of everything in a model, and its metadata."""
    for entry in proto.metadata_props:
        yield from (entry.key, entry.value)
    yield from (item.domain for item in proto.opset_import)
    graph = proto.graph
    yield from (item.name for item in (*graph.input, *graph.output, *graph.value_info, *graph.initializer))
    for body in (graph.node, *(function.node for function in proto.functions)):
        for node in walk(body):
            yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
            yield from (item.name for item in node.attribute)


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


def model_sha256(proto: onnx.ModelProto) -> str | None:
    """Hash of the file that :func:`write_model` makes; ``None`` beyond 2 GB, where it depends on the file's name."""
    return hashlib.sha256(serialize(proto)).hexdigest() if proto.ByteSize() < INLINE_LIMIT else None
