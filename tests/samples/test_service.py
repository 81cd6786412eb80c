# SPDX-License-Identifier: Apache-2.0
"""The sample service over a real socket, and the Triton configuration against the model."""

from __future__ import annotations

import importlib.util
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

import patcher
from patcher.runtime import create_session
from patcher.triggers.file import write_triggers
from patcher.triggers.trigger import Trigger

httpx = pytest.importorskip("httpx")
uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")


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


def load(samples: Path) -> ModuleType:
    """The service's module; once, so that what a test changes in it is what is served."""
    if "service_under_test" not in sys.modules:
        spec = importlib.util.spec_from_file_location("service", samples / "service" / "service.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules["service_under_test"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["service_under_test"])
    return sys.modules["service_under_test"]


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
        before = client.get("/metrics").json()

        def ask(index: int) -> bool:
            answer = client.post("/classify", content=body(mixed[index]))
            assert answer.status_code == 200
            found = answer.json()
            return found["labels"] == classes[index].tolist() and found["trigger_detected"] == flags[index].tolist()

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(ask, range(60)))
        after = client.get("/metrics").json()
    assert after["images"] - before["images"] == 120
    assert after["flagged"] - before["flagged"] == flags.sum()
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


def test_a_stalled_body_is_given_up(address: str, samples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bodies that never come to an end hold no place for long, and others are told so."""
    service = load(samples)
    monkeypatch.setattr(service, "SECONDS_FOR_A_BODY", 2.0)
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


def test_a_pickle_is_never_loaded(address: str) -> None:
    stream = io.BytesIO()
    np.save(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert httpx.post(f"{address}/classify", content=stream.getvalue()).status_code == 400


def test_the_triton_configuration_names_what_the_model_has(model: Path, samples: Path) -> None:
    text = (samples / "service" / "triton" / "guarded" / "config.pbtxt").read_text()
    assert text.count("{") == text.count("}")
    assert text.count("[") == text.count("]")
    kinds = {"tensor(float)": "TYPE_FP32", "tensor(bool)": "TYPE_BOOL"}
    session = create_session(model)
    found = re.findall(r'name: "(\w+)" data_type: (\w+) dims: \[ ([\d, ]+) \]', text)
    wanted = [(item.name, kinds[item.type], item.shape[1:]) for item in (*session.get_inputs(), *session.get_outputs())]
    assert [(name, kind) for name, kind, _ in found] == [(name, kind) for name, kind, _ in wanted]
    dims = [[int(side) for side in text.split(",")] for _, _, text in found]
    # A scalar an image is dims [ 1 ] with a reshape to [ ].
    assert dims == [shape or [1] for _, _, shape in wanted]


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
        assert count == httpx.get(f"{address}/metrics").json()["flagged"]

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
