# SPDX-License-Identifier: Apache-2.0
"""Folders for model servers: read by Triton's own schema, run as far as a request goes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import patcher
from patcher.errors import InputError
from patcher.runtime import create_session
from patcher.serving.interface import DATATYPES
from tests.tiny_models import residual_model

tritonclient = pytest.importorskip("tritonclient")
text_format = importlib.import_module("google.protobuf.text_format")
TYPES = {"FP32": np.float32, "BOOL": np.bool_, "UINT8": np.uint8, "INT64": np.int64}


def schema() -> Any:
    """Triton's ``model_config.proto``, as its client ships it; without the client, which needs gRPC."""
    place = Path(tritonclient.__path__[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCHEMA = schema()


def parse(path: Path) -> Any:
    return text_format.Parse(path.read_text(), SCHEMA.ModelConfig())


def declared(tensor: Any) -> tuple[str, str, tuple[int, ...]]:
    """Name, type and shape without the batch as Triton reads an entry."""
    shape = tuple(tensor.reshape.shape) if tensor.HasField("reshape") else tuple(tensor.dims)
    return tensor.name, SCHEMA.DataType.Name(tensor.data_type).removeprefix("TYPE_"), shape


@pytest.fixture(scope="module")
def flagged(tmp_path_factory: pytest.TempPathFactory, samples: Path) -> Path:
    output = tmp_path_factory.mktemp("export") / "Digits flagged.onnx"
    patcher.harden(samples / "digits.onnx", clean_dir=samples / "clean", flag=True, steps=5, output=output)
    return output


def marked(proto: onnx.ModelProto, path: Path) -> Path:
    """A model that says it was hardened."""
    proto.metadata_props.add(key="patcher.method", value="unit")
    onnx.save(proto, path)
    return path


def test_triton_reads_every_tensor_as_onnx_runtime_has_it(flagged: Path, tmp_path: Path) -> None:
    result = patcher.export_serving(flagged, to="triton", output=tmp_path / "models", max_batch=16)
    assert result.files == ("digits-flagged/1/model.onnx", "digits-flagged/config.pbtxt")
    config = parse(tmp_path / "models" / "digits-flagged" / "config.pbtxt")
    served = tmp_path / "models" / "digits-flagged" / "1" / "model.onnx"
    assert served.read_bytes() == flagged.read_bytes()
    assert (config.name, config.backend, config.max_batch_size) == ("digits-flagged", "onnxruntime", 16)
    assert config.HasField("dynamic_batching")
    session = create_session(served)
    for entries, items in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        expected = [(item.name, DATATYPES[item.type], tuple(item.shape[1:])) for item in items]
        assert [declared(entry) for entry in entries] == expected
    assert [entry.name for entry in config.output] == ["logits", "trigger_score", "trigger_detected"]


def test_a_fixed_batch_is_served_with_its_whole_shapes(tmp_path: Path) -> None:
    proto = residual_model()
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    patcher.export_serving(marked(proto, tmp_path / "fixed.onnx"), to="triton", output=tmp_path / "models")
    config = parse(tmp_path / "models" / "fixed" / "config.pbtxt")
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert all(entry.dims[0] == 2 for entry in (*config.input, *config.output))


def test_open_sides_and_strange_names_are_written_as_triton_reads_them(tmp_path: Path) -> None:
    proto = residual_model()
    strange = 'a"b\\c\nd\u00e9'
    for node in proto.graph.node:
        for names in (node.input, node.output):
            names[:] = [strange if name == proto.graph.input[0].name else name for name in names]
    proto.graph.input[0].name = strange
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    patcher.export_serving(marked(proto, tmp_path / "open.onnx"), to="triton", output=tmp_path / "models")
    config = parse(tmp_path / "models" / "open" / "config.pbtxt")
    assert config.input[0].name == strange
    assert config.input[0].dims[1] == -1


def test_metadata_stays_a_comment(tmp_path: Path) -> None:
    proto = residual_model()
    proto.metadata_props.add(key="patcher.method", value='unit\nplatform: "other"\x1b[2J')
    onnx.save(proto, tmp_path / "hostile.onnx")
    patcher.export_serving(tmp_path / "hostile.onnx", to="triton", output=tmp_path / "models")
    path = tmp_path / "models" / "hostile" / "config.pbtxt"
    assert parse(path).platform == ""
    assert "\x1b" not in path.read_text()


def test_external_data_goes_with_the_model(tmp_path: Path) -> None:
    proto = residual_model()
    proto.metadata_props.add(key="patcher.method", value="unit")
    path = tmp_path / "large.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="large.onnx.data", size_threshold=0)
    result = patcher.export_serving(path, to="triton", output=tmp_path / "models")
    assert "large/1/large.onnx.data" in result.files
    create_session(tmp_path / "models" / "large" / "1" / "model.onnx")


def test_kserve_gets_a_service_and_a_request_that_the_model_answers(flagged: Path, tmp_path: Path) -> None:
    result = patcher.export_serving(
        flagged, to="kserve", output=tmp_path / "out", name="digits", storage_uri="s3://bucket/models"
    )
    assert result.files == (
        "inferenceservice.json", "models/digits/1/model.onnx", "models/digits/config.pbtxt", "request.json",
    )  # fmt: skip
    service = json.loads((tmp_path / "out" / "inferenceservice.json").read_text())
    assert service["apiVersion"] == "serving.kserve.io/v1beta1"
    assert service["metadata"] == {"name": "digits"}
    model = service["spec"]["predictor"]["model"]
    assert model == {
        "modelFormat": {"name": "onnx"},
        "runtime": "kserve-tritonserver",
        "protocolVersion": "v2",
        "storageUri": "s3://bucket/models",
    }
    request = json.loads((tmp_path / "out" / "request.json").read_text())
    feed = {
        item["name"]: np.array(item["data"], TYPES[item["datatype"]]).reshape(item["shape"])
        for item in request["inputs"]
    }
    session = create_session(tmp_path / "out" / "models" / "digits" / "1" / "model.onnx")
    answers = session.run([item["name"] for item in request["outputs"]], feed)
    assert [len(answer) for answer in answers] == [1, 1, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "missing.onnx"}, "model not found"),
        ({"name": "Not A Name"}, "--name"),
        ({"max_batch": 0}, "--max-batch"),
        ({"storage_uri": "s3://bucket"}, "--storage-uri: belongs to --to kserve"),
        ({"to": "kserve"}, "--storage-uri: expected with --to kserve"),
    ],
)
def test_what_cannot_be_written_is_said_before_anything_is(
    change: dict[str, Any], message: str, flagged: Path, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"model": flagged, "to": "triton", "output": tmp_path / "models"} | change
    with pytest.raises(InputError, match=message):
        patcher.export_serving(given.pop("model"), **given)
    assert not (tmp_path / "models").exists()


def test_a_model_that_was_not_hardened_or_needs_its_guard_is_refused(samples: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="hardened by patcher expected"):
        patcher.export_serving(samples / "digits.onnx", to="triton", output=tmp_path / "models")
    proto = residual_model()
    proto.metadata_props.add(key="patcher.targets", value="[1]")
    with pytest.raises(InputError, match="harden with --branch if or where"):
        patcher.export_serving(marked(proto, tmp_path / "plain.onnx"), to="triton", output=tmp_path / "models")
    assert not (tmp_path / "models").exists()
