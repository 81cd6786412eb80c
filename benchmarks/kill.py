# SPDX-License-Identifier: Apache-2.0
"""Kill `patcher harden` at random moments: its output is absent or complete, its inputs are untouched.

    python -m benchmarks.kill                     20 kills, a few minutes

Each run starts `harden` on the sample in a process of its own and sends it SIGKILL after a random share of the
time that a whole run takes. Then the output path must hold nothing, or a model that `patcher verify` finds intact
(`graph`, `weights`, `provenance` and `interface` pass), and the model and the images must have the bytes they had.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_INTACT = ("interface", "operators", "graph", "weights", "provenance")


def inputs_digest() -> str:
    """Hash of the sample's model and of every clean image."""
    found = hashlib.sha256()
    for path in sorted([ROOT / "samples" / "digits.onnx", *(ROOT / "samples" / "clean").rglob("*.png")]):
        found.update(path.as_posix().encode() + path.read_bytes())
    return found.hexdigest()


def start(output: Path, steps: int) -> subprocess.Popen[bytes]:
    """Begin a run."""
    samples = ROOT / "samples"
    command = [sys.executable, "-m", "patcher", "harden", str(samples / "digits.onnx")]
    command += ["--clean-dir", str(samples / "clean"), "-o", str(output), "--steps", str(steps), "--quiet"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)


def is_intact(output: Path) -> bool:
    """Whether the gate finds a whole hardened model under the output's name."""
    from patcher import verify

    samples = ROOT / "samples"
    result = verify(samples / "digits.onnx", output, clean_dir=samples / "clean", limit_per_class=10)
    return not any(check.failed for check in result.checks if check.name in _INTACT)


def kill_runs(count: int, *, steps: int = 20, seed: int = 0) -> dict[str, Any]:
    """Kill `count` runs.

    Returns:
        How many runs left nothing, how many a whole model, how many temporary files stayed, and every fault.
    """
    rng = random.Random(seed)
    inputs = inputs_digest()
    found: dict[str, Any] = {"kills": 0, "nothing": 0, "whole": 0, "temporary_files": 0, "moments_s": [], "faults": []}
    with tempfile.TemporaryDirectory(prefix="kill-") as place:
        folder = Path(place)
        began = time.monotonic()
        if start(folder / "whole.onnx", steps).wait():
            raise SystemExit("patcher harden does not work on the sample")
        duration = time.monotonic() - began
        for index in range(count):
            output = folder / str(index) / "out.onnx"
            output.parent.mkdir()
            # A third of the kills go to the last tenth, where files are written.
            share = rng.uniform(0.85, 1.05) if index % 3 == 2 else rng.uniform(0.0, 0.9)
            process = start(output, steps)
            time.sleep(share * duration)
            process.kill()
            process.wait()
            found["kills"] += 1
            found["moments_s"].append(round(share * duration, 2))
            _judge(found, output, index)
    if inputs_digest() != inputs:
        found["faults"].append("the inputs have changed")
    found["whole_run_s"] = round(duration, 1)
    return found


def _judge(found: dict[str, Any], output: Path, index: int) -> None:
    if not output.exists():
        found["nothing"] += 1
    elif is_intact(output):
        found["whole"] += 1
    else:
        found["faults"].append(f"run {index}: the output is not a whole model")
    found["temporary_files"] += sum(path.suffix == ".part" for path in output.parent.rglob(".*"))


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "kill.json")
    arguments = parser.parse_args()
    found = kill_runs(arguments.kills)
    text = json.dumps(found, indent=2) + "\n"
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text(text)
    print(text, end="")
    return 1 if found["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
