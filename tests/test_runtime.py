# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys

import pytest

from patcher.errors import InputError
from patcher.runtime import create_session, import_onnxruntime, one_line
from tests.tiny_models import images, residual_model


def test_runs_from_bytes_and_from_a_file(tmp_path):
    content = residual_model().SerializeToString()
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    for source in (content, path, str(path)):
        session = create_session(source, optimization="basic", threads=1)
        assert session.run(None, {"image": images()})[0].shape == (3, 4)
    assert session.get_session_options().intra_op_num_threads == 1


def test_a_provider_that_is_not_there_is_an_error():
    with pytest.raises(InputError, match=r"not available: TensorrtExecutionProvider; this onnxruntime offers .*CPU"):
        create_session(residual_model().SerializeToString(), providers=["TensorrtExecutionProvider"])


def test_a_model_that_does_not_load_is_an_error():
    with pytest.raises(InputError, match="cannot load the model"):
        create_session(b"no model")


def test_without_onnxruntime_the_install_line_is_given(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"pip install 'onnx-patcher\[cpu\]'"):
        import_onnxruntime()


def test_messages_of_other_libraries_become_one_line():
    assert one_line(ValueError("a\n  b")) == "a b"
    assert one_line(ValueError()) == "ValueError"
    assert len(one_line(ValueError("x" * 1000))) == 300


@pytest.mark.parametrize("module", ["patcher.runtime", "patcher.model.model", "patcher.graph.sites", "patcher.export"])
def test_starts_without_torch(module):
    code = f"import sys, {module}; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_service_needs_neither_onnx_nor_torch():
    code = "import sys, patcher.runtime; raise SystemExit(bool({'torch', 'onnx'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
