# SPDX-License-Identifier: Apache-2.0
"""The sample service over a real socket, and the Triton configuration against the model."""

from __future__ import annotations

import importlib
import io
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

import patcher
from patcher.runtime import create_session
from patcher.triggers.file import write_triggers
from patcher.triggers.trigger import Trigger

httpx = pytest.importorskip("httpx")
uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
text_string_to_metric_families = importlib.import_module("prometheus_client.parser").text_string_to_metric_families


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, samples: Path) -> Path:
    folder = tmp_path_factory.mktemp("service")
    mask, pattern = np.zeros((1, 8, 8), np.float32), np.zeros((1, 8, 8), np.float32)
    mask[0, 6:, 6:] = 1
    pattern[0, 6, 6] = pattern[0, 7, 7] = 1
    write_triggers(
        [Trigger("patch", 7, (0, 1, 2, 3, 4, 5, 6, 8, 9), {"mask": mask, "pattern": pattern}, pattern.shape)],
        folder / "triggers.npz",
    )
    patcher.harden(
        samples / "digits.onnx",
        clean_dir=samples / "clean",
        method="bna",
        triggers=str(folder / "triggers.npz"),
        steps=10,
        output=folder / "model.onnx",
    )
    return folder / "model.onnx"


def load(samples: Path, name: str = "service") -> ModuleType:
    """A module of the service; once, so that what a test changes in it is what is served."""
    folder = str(samples / "service")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module(name)


@contextmanager
def serving(samples: Path, model: str, **options: str) -> Iterator[str]:
    """The service on a free port, and its address."""
    service = load(samples)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(service.create_app(model, **options), log_level="warning", ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        deadline = time.monotonic() + 30
        while not server.started:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def address(model: Path, samples: Path) -> Iterator[str]:
    with serving(samples, str(model)) as found:
        yield found


def body(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def metrics(address: str) -> dict[str, float]:
    """The samples of ``/metrics`` without their labels, summed; buckets of histograms left out."""
    answer = httpx.get(f"{address}/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            if not sample.name.endswith("_bucket"):
                found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def header(text: str) -> bytes:
    """A body with this header and no array."""
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


HEADERS = [
    "",
    "{",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (1,",
    "{'descr': ",
    "'" * 3,
    "(" * 300,
    "[" * 5000,
    "{'descr': 7, 'fortran_order': False, 'shape': (1,)}",
    "{'descr': [('a',)], 'fortran_order': False, 'shape': (1,)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (10**20,)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': ('a',)}",
    "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
    "{1: 2}",
    "\x00\x1b[2J",
]


def images(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path) as file:
        return file["images"].transpose(0, 3, 1, 2).astype(np.float32) / 255, file["labels"]


def test_clean_and_triggered_images_under_concurrent_load(address: str, model: Path, samples: Path) -> None:
    clean, labels = images(samples / "test.npz")
    triggered, _ = images(samples / "triggered.npz")
    mixed = np.stack([clean[:60], triggered[:60]], axis=1)
    expected = create_session(model).run(["logits", "trigger_detected"], {"input": mixed.reshape(-1, 1, 8, 8)})
    classes, flags = expected[0].argmax(1).reshape(-1, 2), expected[1].reshape(-1, 2)

    with httpx.Client(base_url=address, timeout=30) as client:
        before = metrics(address)

        def ask(index: int) -> bool:
            answer = client.post("/classify", content=body(mixed[index]))
            assert answer.status_code == 200
            found = answer.json()
            return found["labels"] == classes[index].tolist() and found["trigger_detected"] == flags[index].tolist()

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(ask, range(60)))
        after = metrics(address)
    assert after["patcher_images_total"] - before.get("patcher_images_total", 0) == 120
    assert after["patcher_flagged_total"] - before.get("patcher_flagged_total", 0) == flags.sum()
    assert after["patcher_requests_total"] - before.get("patcher_requests_total", 0) == 60
    assert after["patcher_request_seconds_count"] - before.get("patcher_request_seconds_count", 0) == 60
    assert after["patcher_flag_rate"] == pytest.approx(after["patcher_flagged_total"] / after["patcher_images_total"])
    others = labels[:60] != 7
    assert flags[others, 1].mean() > 0.9
    assert flags[:, 0].mean() < 0.1
    assert (classes[others, 1] == labels[:60][others]).mean() > 0.8


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"not an array", 400),
        (b'{"images": []}', 400),
        (body(np.zeros((1, 1, 8, 8), np.float32))[:-5], 400),
        (body(np.zeros((1, 1, 8, 8), np.float32)) + b"x", 400),
        (body(np.array([["a"]])), 422),
        (body(np.zeros((1, 3, 8, 8), np.float32)), 422),
        (body(np.zeros((0, 1, 8, 8), np.float32)), 422),
        (body(np.zeros((65, 1, 8, 8), np.float32)), 422),
        (body(np.zeros((1, 1, 8, 8), np.float64)), 422),
        (body(np.full((1, 1, 8, 8), np.nan, np.float32)), 422),
        (body(np.full((1, 1, 8, 8), 3e38, np.float32)), 422),
        (body(np.full((1, 1, 8, 8), -0.2, np.float32)), 422),
        (body(np.full((1, 1, 8, 8), np.inf, np.float32)), 422),
        *[(header(text), 400) for text in HEADERS],
        (b"x" * (8 * 2**20 + 1), 413),
    ],
)
def test_malformed_bodies_are_refused_and_the_service_lives_on(address: str, content: bytes, status: int) -> None:
    assert httpx.post(f"{address}/classify", content=content, timeout=30).status_code == status
    assert httpx.get(f"{address}/healthz").json()["status"] == "ok"


def test_requests_are_counted_by_the_status_that_goes_out(model: Path, samples: Path) -> None:
    def large() -> Iterator[bytes]:
        yield from [b"x" * 2**20] * 9

    with serving(samples, str(model)) as address:
        for content in (large(), b"x", body(np.zeros((1, 1, 8, 8), np.float32)), body(np.zeros((1, 3, 8, 8)))):
            httpx.post(f"{address}/classify", content=content, timeout=30)
        text = httpx.get(f"{address}/metrics").text
    assert sorted(re.findall(r'patcher_requests_total{status="(\d+)"} 1\.0', text)) == ["200", "400", "413", "422"]
    assert "patcher_request_seconds_count 4.0" in text


def test_a_stalled_body_is_given_up(address: str, samples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bodies that never come to an end hold no place for long, and others are told so."""
    service = load(samples)
    monkeypatch.setattr(load(samples, "bodies"), "SECONDS_FOR_A_BODY", 2.0)
    host, port = address.removeprefix("http://").split(":")
    head = f"POST /classify HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000\r\n\r\nx".encode()
    stalled = [socket.create_connection((host, int(port)), 30) for _ in range(service.MAX_WAITING)]
    for connection in stalled:
        connection.sendall(head)
    time.sleep(0.5)
    sound = body(np.zeros((1, 1, 8, 8), np.float32))
    assert httpx.post(f"{address}/classify", content=sound, timeout=30).status_code == 503
    answers = [connection.recv(200) for connection in stalled]
    assert all(b" 408 " in answer for answer in answers)
    assert httpx.post(f"{address}/classify", content=sound, timeout=30).status_code == 200
    for connection in stalled:
        connection.close()


def picture(array: np.ndarray, form: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, form)
    return stream.getvalue()


def test_a_picture_is_answered_as_its_array(address: str, samples: Path) -> None:
    with np.load(samples / "test.npz") as file:
        pixels = file["images"][:8, :, :, 0]
    arrays = pixels[:, None].astype(np.float32) / np.float32(255)
    expected = httpx.post(f"{address}/classify", content=body(arrays), timeout=30).json()
    for index, array in enumerate(pixels):
        for grey in (array, np.repeat(array[..., None], 3, axis=2)):
            answer = httpx.post(
                f"{address}/classify", content=picture(grey, "PNG"), headers={"Content-Type": "image/png"}, timeout=30
            ).json()
            assert answer["labels"] == expected["labels"][index : index + 1]
            np.testing.assert_allclose(answer["scores"][0], expected["scores"][index], atol=1e-4)
    jpeg = httpx.post(
        f"{address}/classify", content=picture(pixels[0], "JPEG"), headers={"Content-Type": "image/jpeg; q=1"}
    )
    assert jpeg.status_code == 200
    assert len(jpeg.json()["trigger_detected"]) == 1


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"no picture", 400),
        (picture(np.zeros((8, 8), np.uint8), "GIF"), 400),
        (picture(np.zeros((8, 8), np.uint8), "PNG")[:45], 400),
        (picture(np.zeros((5000, 5000), np.uint8), "PNG"), 400),
        (picture(np.zeros((9, 8), np.uint8), "PNG"), 422),
        (body(np.zeros((1, 1, 8, 8), np.float32)), 400),
    ],
)
def test_what_is_no_picture_for_the_model_is_refused(address: str, content: bytes, status: int) -> None:
    answer = httpx.post(f"{address}/classify", content=content, headers={"Content-Type": "image/png"}, timeout=30)
    assert answer.status_code == status, answer.text
    assert "\n" not in answer.json()["detail"]


def test_the_flag_rate_rolls(samples: Path) -> None:
    telemetry = load(samples, "telemetry")
    found = telemetry.Metrics({"patcher.method": "bna"})
    for flagged in (64, *[0] * 15):
        found.count(64, flagged)
    assert b"patcher_flag_rate 0.0625" in found.text()
    found.count(64, 64)
    assert b"patcher_flag_rate 0.0625" in found.text()
    for _ in range(16):
        found.count(64, 0)
    assert b"patcher_flag_rate 0.0\n" in found.text()
    assert b"patcher_flagged_total 128.0" in found.text()
    assert b'patcher_model_info{method="bna"' in found.text()


def test_requests_are_spans_where_opentelemetry_is_installed(model: Path, samples: Path) -> None:
    trace = pytest.importorskip("opentelemetry.trace")
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    export = importlib.import_module("opentelemetry.sdk.trace.export")
    memory = importlib.import_module("opentelemetry.sdk.trace.export.in_memory_span_exporter").InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(memory))
    trace.set_tracer_provider(provider)
    with serving(samples, str(model)) as address:
        httpx.post(f"{address}/classify", content=body(np.zeros((3, 1, 8, 8), np.float32)), timeout=30)
    spans = {span.name: span for span in memory.get_finished_spans()}
    assert set(spans) >= {"classify", "read", "infer"}  # FastAPI may add its own
    assert spans["infer"].attributes["images"] == 3
    assert all(spans[name].parent.span_id == spans["classify"].context.span_id for name in ("read", "infer"))


def test_a_pickle_is_never_loaded(address: str) -> None:
    stream = io.BytesIO()
    np.save(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert httpx.post(f"{address}/classify", content=stream.getvalue()).status_code == 400


def test_flagged_inputs_are_kept_and_unlearned(samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag that needs no trigger, a service that keeps what it flags, and masks that undo the trigger."""
    hardened, kept = tmp_path / "flagged.onnx", tmp_path / "kept"
    patcher.harden(samples / "digits.onnx", clean_dir=samples / "clean", flag=True, steps=20, output=hardened)
    triggered, labels = images(samples / "triggered.npz")
    others = triggered[labels != 7]
    with serving(samples, str(hardened), keep_flagged=str(kept)) as address:
        for start in range(0, 120, 40):
            flags = httpx.post(f"{address}/classify", content=body(others[start : start + 40]), timeout=30).json()
            assert sum(flags["trigger_detected"]) > 20
        count = len(list(kept.glob("*.npy")))
        assert count == metrics(address)["patcher_flagged_total"]

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("patcher.kept.os.replace", full)
        answer = httpx.post(f"{address}/classify", content=body(others[120:160]), timeout=30)
        assert answer.status_code == 200
        assert len(list(kept.iterdir())) == count
    result = patcher.harden(
        samples / "digits.onnx",
        clean_dir=samples / "clean",
        method="nft",
        flagged=str(kept),
        triggered=samples / "triggered.npz",
        target=7,
    )
    assert result.verdict == "pass"
    assert result.attack is not None
    assert result.attack.asr.after.value < 0.05
