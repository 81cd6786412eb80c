# SPDX-License-Identifier: Apache-2.0
"""How many requests the sample service answers, and how fast, with 1 to 64 clients on the loopback interface.

    python -m benchmarks.load [--model HARDENED] [--seconds 5]

Starts `samples/service/service.py` in a process of its own on a free port. Each client waits for its answer before it
sends the next request (a closed loop) on a connection that it keeps, for a fixed time; latency is that of the client,
of requests with answer 200. Where more than 16 requests wait at a time the service answers the rest with 503 at once,
and a client tries again after 10 ms; such answers are counted, and not among the latencies. Bodies are one image as
`.npy` and as PNG. Clients and service share the machine's cores. Without `--model` it hardens the sample.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from benchmarks.record import markdown_table, write_result
from benchmarks.runtime import ROOT, harden
from patcher.pictures import preprocess_of, read_picture
from patcher.runtime import create_session

CLIENTS = (1, 2, 4, 8, 16, 32, 64)
SIDE = 224
_AGAIN_SECONDS = 0.01
_START_SECONDS = 60


@dataclass(frozen=True)
class Load:
    """One number of clients.

    Attributes:
        body: ``npy`` or ``png``.
        clients: How many.
        answered: Requests answered with 200.
        refused: Requests answered with 503.
        rate: Answered requests a second.
        p50_ms: Median latency, milliseconds.
        p99_ms: 99th percentile, milliseconds.
        cpu_ms: Processor time of the service for each answered request, milliseconds: what else the machine does
            changes it little.
    """

    body: str
    clients: int
    answered: int
    refused: int
    rate: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float


def bodies(model: Path) -> dict[str, tuple[str, bytes]]:
    """One random picture for a hardened model: form to content type and body."""
    session = create_session(model)
    item, metadata = session.get_inputs()[0], session.get_modelmeta().custom_metadata_map
    preprocess = preprocess_of(metadata)
    sides = item.shape[2:] if preprocess.layout == "NCHW" else item.shape[1:3]
    height, width = (side if isinstance(side, int) else SIDE for side in sides)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, preprocess.channels), np.uint8)
    picture, array = io.BytesIO(), io.BytesIO()
    Image.fromarray(pixels if preprocess.channels > 1 else pixels[..., 0]).save(picture, "PNG")
    np.save(array, read_picture(picture.getvalue(), preprocess, item.type))
    return {
        "npy": ("application/octet-stream", array.getvalue()),
        "png": ("image/png", picture.getvalue()),
    }


@contextmanager
def service(model: Path) -> Iterator[tuple[str, int]]:
    """The service on a free port of the loopback interface: its address and process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = ROOT / "samples" / "service" / "service.py"
    command = [sys.executable, str(program), str(model), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + _START_SECONDS
    try:
        while True:
            try:
                httpx.get(f"{address}/healthz").raise_for_status()
                break
            except httpx.TransportError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        yield address, process.pid
    finally:
        process.terminate()
        process.wait()


async def client(connections: httpx.AsyncClient, content: bytes, until: float) -> tuple[list[float], int]:
    """Send one request after the other; the latencies of the answers in seconds, and how many were refused."""
    found: list[float] = []
    refused = 0
    while (start := time.perf_counter()) < until:
        answer = await connections.post("/classify", content=content)
        if answer.status_code == 503:
            refused += 1
            await asyncio.sleep(_AGAIN_SECONDS)
            continue
        answer.raise_for_status()
        found.append(time.perf_counter() - start)
    return found, refused


def cpu_seconds(process: int) -> float:
    """Processor time of a process so far; Linux."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def load(served: tuple[str, int], body: tuple[str, str, bytes], clients: int, seconds: float) -> Load:
    """Load the service with so many clients.

    Args:
        served: Address and process of the service.
        body: Form, content type and content of each request.
        clients: How many.
        seconds: For how long.
    """
    (address, process), (form, kind, content) = served, body
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    # One pool with a connection for each: a pool of its own for each would load certificates 64 times.
    async with httpx.AsyncClient(
        base_url=address, timeout=30, limits=limits, headers={"Content-Type": kind}, verify=False
    ) as connections:
        await asyncio.gather(*(connections.get("/healthz") for _ in range(clients)))
        start, before = time.perf_counter(), cpu_seconds(process)
        done = await asyncio.gather(*(client(connections, content, start + seconds) for _ in range(clients)))
        elapsed, used = time.perf_counter() - start, cpu_seconds(process) - before
    latencies = np.concatenate([np.array(found) for found, _ in done])
    p50, p99 = np.quantile(latencies, (0.5, 0.99)) * 1e3
    refused = sum(count for _, count in done)
    count = len(latencies)
    return Load(form, clients, count, refused, count / elapsed, float(p50), float(p99), used / count * 1e3)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write ``results/load``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="a hardened model; the sample otherwise")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each number of clients")
    options = parser.parse_args(arguments)
    rows: list[Load] = []
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or Path(folder) / "digits.onnx"
        if options.model is None:
            harden(model)
        for form, (kind, content) in bodies(model).items():
            with service(model) as served:
                asyncio.run(load(served, (form, kind, content), 1, 1.0))  # warm
                for count in CLIENTS:
                    rows.append(asyncio.run(load(served, (form, kind, content), count, options.seconds)))
                    print(rows[-1], flush=True)
    cells = [
        (
            row.body,
            row.clients,
            f"{row.rate:.0f}",
            f"{row.p50_ms:.1f}",
            f"{row.p99_ms:.1f}",
            f"{row.cpu_ms:.2f}",
            row.refused,
        )
        for row in rows
    ]
    tables = markdown_table(
        ("body", "clients", "requests/s", "p50 ms", "p99 ms", "processor ms a request", "answered 503"), cells
    )
    given = f" --model {options.model.name}" if options.model else ""
    command = f"python -m benchmarks.load{given} --seconds {options.seconds:g}"
    one, five, fifteen = os.getloadavg()
    tables += f"\nLoad averages of the machine at the end: {one:.1f}, {five:.1f}, {fifteen:.1f} (1, 5, 15 minutes).\n"
    write_result("load", command=command, rows=rows, tables=tables)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
