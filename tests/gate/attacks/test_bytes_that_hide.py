# SPDX-License-Identifier: Apache-2.0
"""The model that is read is beyond reproach; the file, or the next reader of it, says something else."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from patcher.errors import InputError
from patcher.gate import subject
from patcher.model import external
from patcher.model.file import load_exactly, load_file
from patcher.runtime import GuardedSession, create_session
from tests.gate.attacks.conftest import REWRITTEN, Stage
from tests.gate.attacks.hostile_graphs import metadata


def field(number: int, content: bytes) -> bytes:
    """A protobuf field of bytes."""
    length, size = b"", len(content)
    while size >= 128:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def overridden(raw: bytes) -> bytes:
    """A version of the format that a later one replaces."""
    return b"\x08\x05" + raw


def in_two_parts(raw: bytes) -> bytes:
    """A graph that the first one is merged with."""
    return raw + field(7, b"")


def another_format_too(raw: bytes) -> bytes:
    """The mark of ONNX Runtime's own format where it looks for it, in a text that a later one replaces."""
    return field(2, b"\0\0ORTM" + b"\0" * 100) + raw + field(2, b"attacker")


def unknown_field(raw: bytes) -> bytes:
    """A field of a later standard."""
    return raw + b"\xc2\x7e" + b"\x04evil"


@pytest.mark.parametrize("hide", [overridden, in_two_parts, another_format_too, unknown_field])
def test_bytes_that_the_model_does_not_have(stage: Stage, path: Path, hide: Callable[[bytes], bytes]) -> None:
    path.write_bytes(hide(stage.hardened("unit").read_bytes()))
    assert onnx.load(path).graph == onnx.load(stage.hardened("unit")).graph
    for policy in ({}, {"policy": REWRITTEN}):
        assert "reconstruction" in stage.failures(path, **policy)
        assert "reconstruction" in stage.failures(path, patch=stage.patch("unit"), **policy)


def test_the_second_file_hides_bytes(stage: Stage, tmp_path: Path) -> None:
    shutil.copy(stage.hardened("two-files"), tmp_path / "model.onnx")
    guard = stage.hardened("two-files").with_name("two-files.guard.onnx").read_bytes()
    (tmp_path / "model.guard.onnx").write_bytes(overridden(guard))
    assert "reconstruction" in stage.failures(tmp_path / "model.onnx")


def test_a_session_takes_the_format_that_was_checked(stage: Stage) -> None:
    marked = another_format_too(stage.hardened("unit").read_bytes())
    assert marked[4:8] == b"ORTM"
    create_session(marked)


def outside(model: onnx.ModelProto, folder: Path, **entries: str) -> None:
    """Move a weight into a file; entries replace those of its place, further ones come last."""
    tensor = next(item for item in model.graph.initializer if item.name == "fc")
    (folder / "weights.bin").write_bytes(b"\0" * 4096 + tensor.raw_data)
    place = {"location": "weights.bin", "offset": "4096", "length": str(len(tensor.raw_data))}
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (place | entries).items():
        tensor.external_data.add(key=key.rstrip("_"), value=value)


@pytest.mark.parametrize(
    "entries",
    [
        {"offset_": "0"},
        {"location_": "other.bin"},
        {"length_": "1"},
        {"offset": "4_096"},
        {"offset": "+4096"},
        {"offset": " 4096"},
        {"offset": "\uff14\uff10\uff19\uff16"},
        {"offset": "4096.0"},
        {"offset": "0x1000"},
        {"offset": "-1"},
        {"offset": "9" * 30},
        {"offset": ""},
        {"length": ""},
        {"length": "-1"},
        {"length": "0"},
        {"length": "8192"},
        {"location": "*/_ORT_MEM_ADDR_/*"},
        {"location": "."},
        {"location": ""},
        {"location": "weights.bin\0"},
        {"location": "a" * 5000},
        {"location": "../weights.bin"},
        {"location": "loop"},
        {"location": "pipe"},
    ],
    ids=lambda entries: " ".join(f"{key}={value[:20]!a}" for key, value in entries.items()),
)
def test_places_that_readers_take_differently(stage: Stage, path: Path, entries: dict[str, str]) -> None:
    (path.parent / "loop").symlink_to("loop")
    os.mkfifo(path.parent / "pipe")
    (path.parent / "*" / "_ORT_MEM_ADDR_").mkdir(parents=True)
    (path.parent / "*" / "_ORT_MEM_ADDR_" / "*").write_bytes(b"\0" * 8192)
    assert stage.refuses("unit", lambda model: outside(model, path.parent, **entries), path)


def test_weights_beside_the_model_are_read_and_hashed_once(
    stage: Stage, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stage.attack("unit", lambda model: outside(model, path.parent), path) == set()
    honest, opened = load_file(path)[1], []
    plain = Path.open

    def counted(self: Path, *args: object, **kwargs: object) -> object:
        opened.append(self.name)
        return plain(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "open", counted)
    assert load_exactly(path).sha256 == honest
    assert opened.count("weights.bin") == 1
    content = bytearray((path.parent / "weights.bin").read_bytes())
    content[-1] ^= 1
    monkeypatch.undo()
    (path.parent / "weights.bin").write_bytes(content)
    assert load_file(path)[1] != honest
    assert "weights" in stage.failures(path)


def test_weights_swapped_behind_a_link(stage: Stage, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is replaced by a hard link to another right after it was opened."""
    stage.attack("unit", lambda model: outside(model, path.parent), path)
    wanted = (path.parent / "weights.bin").read_bytes()
    (path.parent / "evil.bin").write_bytes(bytes(len(wanted)))
    read = external._read

    def swapped(file: Path, ranges: list[external._Range], digest: object, name: str) -> None:
        read(file, ranges, digest, name)
        file.unlink()
        os.link(path.parent / "evil.bin", file)

    monkeypatch.setattr(external, "_read", swapped)
    found = load_exactly(path)
    assert found.sha256 == hashlib.sha256(path.read_bytes() + wanted).hexdigest()


def test_no_regular_file(stage: Stage, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    for place in (tmp_path / "pipe.onnx", Path("/dev/zero"), tmp_path):
        with pytest.raises(InputError, match=r"no regular file|is a folder"):
            stage.failures(place)


def test_a_link_to_a_hardened_file_is_that_file(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "link.onnx").symlink_to(stage.hardened("unit"))
    assert stage.failures(tmp_path / "link.onnx") == set()
    (tmp_path / "link.onnx").unlink()
    (tmp_path / "link.onnx").symlink_to(stage.original)
    assert "reconstruction" in stage.failures(tmp_path / "link.onnx")


def test_another_second_file_than_the_first_one_names(stage: Stage, tmp_path: Path) -> None:
    """Signatures and hashes are of the first file; the second one hangs on it."""
    shutil.copy(stage.hardened("two-files"), tmp_path / "model.onnx")
    guard = onnx.load(stage.hardened("two-files").with_name("two-files.guard.onnx"))
    onnx.save(guard, tmp_path / "model.guard.onnx")
    digest = hashlib.sha256((tmp_path / "model.onnx").read_bytes()).hexdigest()
    GuardedSession(tmp_path / "model.onnx", sha256=digest)
    metadata(guard, "patcher.version", "0.0.1")  # what the bytes are compared without
    onnx.save(guard, tmp_path / "model.guard.onnx")
    assert stage.failures(tmp_path / "model.onnx") >= {"reconstruction", "accuracy"}
    with pytest.raises(InputError, match="not the model that was reviewed"):
        GuardedSession(tmp_path / "model.onnx", sha256=digest)


def test_the_file_that_was_compared_is_the_one_that_is_served(
    stage: Stage, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replaced as soon as it was read."""
    content = stage.hardened("unit").read_bytes()
    path.write_bytes(content)
    read = Path.read_bytes

    def swapped(self: Path) -> bytes:
        found = read(self)
        if self == path:
            path.write_bytes(b"no model")
        return found

    monkeypatch.setattr(Path, "read_bytes", swapped)
    session = GuardedSession(path, sha256=hashlib.sha256(content).hexdigest())
    assert len(session.classify(np.zeros((1, 3, 8, 8), np.float32)).labels) == 1


def test_no_weights_from_beside_a_pinned_model(stage: Stage, path: Path) -> None:
    stage.attack("unit", lambda model: outside(model, path.parent), path)
    GuardedSession(path)
    with pytest.raises(InputError, match="cannot load"):
        GuardedSession(path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def test_the_hardened_file_is_read_once(stage: Stage, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is replaced behind the gate's back changes nothing of what was judged."""
    content = stage.hardened("unit").read_bytes()
    path.write_bytes(content)
    load = subject.load_exactly

    def swapped(file: Path) -> object:
        found = load(file)
        path.write_bytes(stage.original.read_bytes())
        return found

    monkeypatch.setattr(subject, "load_exactly", swapped)
    result = stage.gate(path)
    assert result.passed
    assert result.report.as_json()["hardened"]["sha256"] == hashlib.sha256(content).hexdigest()
