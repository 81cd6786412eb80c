# SPDX-License-Identifier: Apache-2.0
"""A real Ray cluster of two workers on this machine, as a user starts it; skipped where Ray is not installed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import patcher
from patcher.errors import InputError
from tests.fleet.fakes import HereEngine
from tests.fleet.test_fleet import files_of

installed = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
# A busy machine starts Ray's own processes slowly.
PATIENT = {**os.environ, "RAY_raylet_start_wait_time_s": "300", "RAY_agent_register_timeout_ms": "300000"}
# In a process of its own: Ray leaves threads, handlers and warnings behind in the one that connects.
PROGRAM = """
import json, os, signal, sys
import patcher
from patcher.fleet.description import Running
from patcher.fleet.ray import RayEngine

table, address, kill = json.loads(sys.argv[1]), sys.argv[2] or None, sys.argv[3] == "kill"
engine = RayEngine(Running(workers=2), address)
assert engine.slots == 2, engine.slots
import ray

def progress(what, done, total):
    global kill
    if kill:
        kill = False
        ray.kill(engine.actors[0])  # the node's process
        engine.actors[1].process_id.remote()  # comes after the task it works on

found = {item.name: item.verdict for item in patcher.fleet(table, engine=engine, progress=progress)}
engine.close()
assert not kill
print(json.dumps(found))
"""


def ray_fleet(table: dict[str, Any], results: Path, address: str = "", accident: str = "") -> dict[str, str]:
    command = [sys.executable, "-c", PROGRAM, json.dumps({**table, "results": str(results)}), address, accident]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=PATIENT)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


@installed
def test_two_workers_of_a_cluster_give_the_same_bytes(table: dict[str, Any], tmp_path: Path, samples: Path) -> None:
    table["models"].append(
        {
            "path": str(samples / "digits.onnx"),
            "clean_dir": str(samples / "clean"),
            "do": ["scan", "harden"],
            "harden": {"method": "unit", "steps": 2},
        }
    )
    expected = {item.name: item.verdict for item in patcher.fleet(table, engine=HereEngine(), results=tmp_path / "h")}
    assert ray_fleet(table, tmp_path / "ray", accident="kill") == expected
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "h")


@installed
def test_a_cluster_that_runs_is_found(table: dict[str, Any], tmp_path: Path) -> None:
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    port = "26379"
    start = [*ray, "start", "--head", "--num-cpus=2", f"--port={port}", "--include-dashboard=false", "--block"]
    with (tmp_path / "log").open("w") as log:
        head = subprocess.Popen(start, stdout=log, stderr=log, env=PATIENT, start_new_session=True)
    try:
        for _ in range(300):
            if "Ray runtime started" in (tmp_path / "log").read_text():
                break
            time.sleep(1)
        assert ray_fleet(table, tmp_path / "r", "auto") == {"backdoored": "backdoor", "clean": "clean"}
    finally:
        head.terminate()
        head.wait(timeout=60)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense", "127.0.0.1:99999"])
def test_an_address_nobody_answers(table: dict[str, Any], address: str) -> None:
    with pytest.raises(InputError, match=r"--address|Ray is not installed"):
        patcher.fleet(table, engine="ray", address=address)


def test_ray_that_is_not_installed(table: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'onnx-patcher\[ray\]'"):
        patcher.fleet(table, engine="ray")
