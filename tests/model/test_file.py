# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import errno
import os

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.external_data_helper import set_external_data

from patcher.errors import InputError, PatcherError
from patcher.model import file as model_file
from patcher.model.file import load_file
from patcher.model.model import read_model, write_model
from tests.tiny_models import residual_model

CONTENT = residual_model().SerializeToString(deterministic=True)


def _external(folder, location="weights.data"):
    proto = residual_model()
    data, offset = b"", 0
    for tensor in proto.graph.initializer:
        content = tensor.raw_data
        set_external_data(tensor, location, offset=offset, length=len(content))
        tensor.ClearField("raw_data")
        data, offset = data + content, offset + len(content)
    (folder / "model.onnx").write_bytes(proto.SerializeToString())
    return data


def test_external_data_comes_inline(tmp_path):
    (tmp_path / "weights.data").write_bytes(_external(tmp_path))
    model = read_model(tmp_path / "model.onnx")
    assert model.proto.graph == residual_model().graph
    (tmp_path / "weights.data").write_bytes(b"\0" * 4000)
    assert read_model(tmp_path / "model.onnx").sha256 != model.sha256


def test_external_data_is_found_beside_the_model_only(tmp_path, monkeypatch):
    data = _external(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "weights.data").write_bytes(data)
    monkeypatch.chdir(elsewhere)
    with pytest.raises(InputError, match="external data file not found"):
        read_model(tmp_path / "model.onnx")


@pytest.mark.parametrize("location", ["../secret.data", "/etc/passwd", ""])
def test_external_data_outside_of_the_folder_is_refused(tmp_path, location):
    inner = tmp_path / "inner"
    inner.mkdir()
    data = _external(inner, "placeholder")
    proto = onnx.load(inner / "model.onnx", load_external_data=False)
    for tensor in proto.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = location
    (inner / "model.onnx").write_bytes(proto.SerializeToString())
    (tmp_path / "secret.data").write_bytes(data)
    with pytest.raises(InputError, match="outside of the model's folder"):
        load_file(inner / "model.onnx")


def test_external_data_behind_a_link_out_of_the_folder_is_refused(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "secret.data").write_bytes(_external(inner))
    (inner / "weights.data").symlink_to(tmp_path / "secret.data")
    with pytest.raises(InputError, match="outside of the model's folder"):
        load_file(inner / "model.onnx")


def test_short_external_data_is_refused(tmp_path):
    (tmp_path / "weights.data").write_bytes(_external(tmp_path)[:100])
    with pytest.raises(InputError, match="truncated"):
        load_file(tmp_path / "model.onnx")


def test_external_data_needs_a_path(tmp_path):
    _external(tmp_path)
    with pytest.raises(InputError, match="give the model's path"):
        read_model((tmp_path / "model.onnx").read_bytes())


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty"), (b"hello, this is no model", "not an ONNX model"), (CONTENT[: len(CONTENT) // 2], "truncated")],
)
def test_files_that_are_no_models(tmp_path, content, message):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_model(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InputError, match="model not found"):
        read_model(tmp_path / "none.onnx")
    with pytest.raises(InputError, match="is a folder"):
        read_model(tmp_path)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_bytes_end_in_our_own_errors(data):
    """A flipped or cut file is read or refused; no other exception escapes."""
    content = bytearray(CONTENT)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([len(content), data.draw(st.integers(0, len(content)))]))
    with contextlib.suppress(PatcherError):
        read_model(bytes(content[:cut]))


def test_write_returns_the_hash_that_reading_gives(tmp_path):
    path = tmp_path / "out.onnx"
    digest = write_model(residual_model(), path)
    assert load_file(path)[1] == digest
    assert os.listdir(tmp_path) == ["out.onnx"]
    first = path.read_bytes()
    write_model(residual_model(), path)
    assert path.read_bytes() == first


def test_missing_output_folder(tmp_path):
    with pytest.raises(InputError, match="output folder not found"):
        write_model(residual_model(), tmp_path / "none" / "out.onnx")


@pytest.mark.parametrize("limit", [model_file.INLINE_LIMIT, 100])
@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_nothing_is_left_behind(tmp_path, monkeypatch, failure, limit):
    def fail(descriptor):
        raise failure

    monkeypatch.setattr(model_file, "INLINE_LIMIT", limit)
    monkeypatch.setattr(os, "fsync", fail)
    expected = InputError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        write_model(residual_model(), tmp_path / "out.onnx")
    if expected is InputError:
        assert "No space left on device" in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_beyond_the_inline_limit_weights_lie_beside_the_model(tmp_path, monkeypatch):
    monkeypatch.setattr(model_file, "INLINE_LIMIT", 100)
    monkeypatch.setattr(model_file, "_EXTERNAL_THRESHOLD", 64)
    path = tmp_path / "out.onnx"
    path.with_name("out.onnx.data").write_bytes(b"old")
    digest = write_model(residual_model(), path)
    assert sorted(os.listdir(tmp_path)) == ["out.onnx", "out.onnx.data"]
    slim = onnx.load(path, load_external_data=False)
    assert any(tensor.external_data for tensor in slim.graph.initializer)
    proto, again = load_file(path)
    assert again == digest
    assert proto.graph == residual_model().graph
    # The checker and ONNX Runtime take such a model too.
    assert read_model(path).num_classes == 4
