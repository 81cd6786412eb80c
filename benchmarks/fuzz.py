# SPDX-License-Identifier: Apache-2.0
"""Feed damaged files to every reader and command, and count what goes wrong.

    python -m benchmarks.fuzz                     20 000 inputs
    python -m benchmarks.fuzz --inputs 500

Inputs are sound files with bytes flipped, cut, repeated, inserted or overwritten with awkward numbers, and
structured damage to ONNX graphs (sizes, names, types, edges, metadata, subgraphs) and to arrays inside of archives.
Each is read as ONNX model, hardened model of each form (up to the gate's proof by reconstruction), picture, npz,
trigger file, safetensors patch, TOML policy or JSON preprocessing, by the code that the commands call first; every
hundredth goes through a whole command. Only `PatcherError` may come out of a reader,
within 10 seconds, below 2 GiB, and no file may appear. The inputs run in child processes, so that a crash of the
process is found too.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.damage import damaged, damaged_archive, damaged_graph, sound_images, sound_model, sound_picture

LIMIT_SECONDS = 10.0  # of processor time: what else the machine does must not decide
HANG_SECONDS = 60.0  # of wall time
LIMIT_BYTES = 2 * 2**30
KINDS = (
    *("onnx", "hardened", "unit", "folded", "flag", "nft", "bna-if", "bna-where", "none"),
    *("npz", "triggers", "picture", "patch", "policy", "preprocess"),
)
_CHUNK = 200


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        suffix: Of the file's name.
        seed: A sound file of it.
        read: The code that reads it first.
        command: A whole command that reads it.
    """

    suffix: str
    seed: bytes
    read: Callable[[Path], object]
    command: Callable[[Path, Path], list[str]]


def _write_sound(folder: Path) -> None:
    """Sound files that others are read with."""
    from patcher.triggers.file import write_triggers
    from patcher.triggers.trigger import Trigger

    parameters = {"mask": np.ones((1, 8, 8), np.float32), "pattern": np.zeros((3, 8, 8), np.float32)}
    write_triggers([Trigger("patch", 1, (0, 2), parameters, (3, 8, 8))], folder / "sound.triggers.npz")
    (folder / "sound.onnx").write_bytes(sound_model())
    (folder / "sound.npz").write_bytes(sound_images())


def kinds(folder: Path) -> dict[str, Kind]:
    """All kinds, with the sound files in `folder`."""
    from benchmarks.hostile import hardened, patches, proof
    from patcher.data.image_sources import read_npz
    from patcher.data.preprocess import Preprocess, resolve_preprocess
    from patcher.gate.check import CHECKS
    from patcher.gate.policy import default_policy_text, read_policy
    from patcher.model.model import read_model
    from patcher.patch import patch_bytes, read_patch
    from patcher.triggers.file import read_triggers

    _write_sound(folder)
    model, clean = str(folder / "sound.onnx"), ["--clean-dir", str(folder / "sound.npz"), "--accuracy-floor", "0"]
    preprocess = json.dumps({"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2], "input_size": [3, 8, 8], "crop_pct": 0.9})
    read = read_model(folder / "sound.onnx")

    def gate(path: Path, out: Path) -> list[str]:
        return ["verify", model, str(path), *clean]

    return {
        **{name: Kind(".onnx", content, proof(read), gate) for name, content in hardened(read).items()},
        "onnx": Kind(".onnx", sound_model(), read_model, lambda path, out: ["verify", str(path), model, *clean]),
        "hardened": Kind(".onnx", sound_model(), read_model, gate),
        "npz": Kind(
            ".npz",
            sound_images(),
            lambda path: read_npz(path, Preprocess()),
            lambda path, out: ["evaluate", model, "--data", str(path), "--accuracy-floor", "0"],
        ),
        "triggers": Kind(
            ".npz",
            (folder / "sound.triggers.npz").read_bytes(),
            read_triggers,
            lambda path, out: ["verify", model, model, *clean, "--triggers", str(path)],
        ),
        "picture": Kind(
            ".png",
            sound_picture(),
            Preprocess().load_picture,
            lambda path, out: ["evaluate", model, "--data", str(path.parent), "--pseudo-labels"],
        ),
        "patch": Kind(
            ".safetensors",
            patch_bytes(patches(read)["unit"]),
            read_patch,
            lambda path, out: ["apply", model, str(path), "-o", str(out / "out.onnx")],
        ),
        "policy": Kind(
            ".toml",
            default_policy_text().encode(),
            lambda path: read_policy(path, tuple(CHECKS)),
            lambda path, out: ["policy", "check", str(path)],
        ),
        "preprocess": Kind(
            ".json",
            preprocess.encode(),
            lambda path: resolve_preprocess(read, file=path),
            lambda path, out: ["evaluate", model, "--data", str(folder / "sound.npz"), "--preprocess", str(path)],
        ),
    }


def run_one(kind: Kind, name: str, index: int, folder: Path, *, whole: bool) -> str:
    """Read one damaged input; return what happened: ``read``, ``refused``, or the fault's name."""
    from patcher._cli import main
    from patcher.errors import PatcherError

    rng = np.random.default_rng([index, sum(name.encode())])
    inner = {".onnx": damaged_graph, ".npz": damaged_archive}.get(kind.suffix)
    content = inner(kind.seed, rng) if inner and rng.random() < 0.5 else damaged(kind.seed, rng)
    inside = folder / "in"
    inside.mkdir(exist_ok=True)
    path = inside / f"input{kind.suffix}"
    path.write_bytes(content)
    started, processor = time.monotonic(), time.process_time()
    try:
        if whole:
            outcome = _command(main, kind.command(path, folder / "out"))
        else:
            kind.read(path)
            outcome = "read"
    except PatcherError as error:
        outcome = "refused" if "\n" not in str(error) else "refusal of several lines"
    except Exception as error:
        outcome = f"{type(error).__name__} at {traceback.extract_tb(error.__traceback__)[-1].name}"
    took, worked = time.monotonic() - started, time.process_time() - processor
    if worked > LIMIT_SECONDS or took > HANG_SECONDS:
        outcome = f"took {took:.0f} s, {worked:.0f} s of processor time"
    path.unlink()
    for entry in (folder / "out").iterdir():
        # `apply` may well succeed: its output is the one file that may be there.
        outcome = outcome if whole and entry.name == "out.onnx" else f"left {entry.name}"
        entry.unlink()
    return outcome


def _command(main: Callable[[list[str]], int], arguments: list[str]) -> str:
    out, err = io.StringIO(), io.StringIO()
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = out, err
    try:
        code = main(arguments)
    finally:
        sys.stdout, sys.stderr = streams
    if code == 2 and ("unexpected" in err.getvalue() or err.getvalue().count("\n") != 1):
        return f"command: {err.getvalue()[:120]!r}"
    return f"command exit {code}"


def _work(name: str, indices: range, whole_every: int, queue: Any) -> None:
    """One child process: a chunk of inputs of one kind."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
        folder = Path(place)
        (folder / "out").mkdir()
        kind = kinds(folder)[name]
        os.chdir(folder / "out")
        for index in indices:
            queue.put(("start", index, ""))
            queue.put(
                ("end", index, run_one(kind, name, index, folder, whole=whole_every > 0 and index % whole_every == 0))
            )
        os.chdir("/")
    queue.put(("memory", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, ""))


def fuzz(inputs: int, *, whole_every: int = 100, names: tuple[str, ...] = ()) -> dict[str, Any]:
    """Run `inputs` damaged files, spread over the kinds.

    Returns:
        Outcomes by kind, peak memory, seconds, and every fault with the input's number.
    """
    names = names or KINDS
    context = multiprocessing.get_context("spawn")
    outcomes: dict[str, Counter[str]] = {name: Counter() for name in names}
    faults: list[dict[str, Any]] = []
    peak, started = 0, time.monotonic()
    for position, name in enumerate(names):
        share = inputs // len(names) + (position < inputs % len(names))
        for first in range(0, share, _CHUNK):
            indices = range(first, min(first + _CHUNK, share))
            results, memory, exit_code = _run_chunk(context, name, indices, whole_every)
            peak = max(peak, memory)
            if exit_code or len(results) < len(indices):
                faults.append(
                    {"kind": name, "input": indices[min(len(results), len(indices) - 1)], "fault": f"exit {exit_code}"}
                )
            for index, outcome in results:
                outcomes[name][outcome] += 1
                if outcome not in ("read", "refused") and not outcome.startswith("command exit"):
                    faults.append({"kind": name, "input": index, "fault": outcome})
    if peak > LIMIT_BYTES:
        faults.append({"kind": "", "input": -1, "fault": f"{peak >> 20} MiB of memory"})
    return {
        "inputs": sum(sum(count.values()) for count in outcomes.values()),
        "outcomes": {name: dict(sorted(count.items())) for name, count in outcomes.items()},
        "peak_mib": peak >> 20,
        "seconds": round(time.monotonic() - started, 1),
        "faults": faults,
    }


def _run_chunk(
    context: Any, name: str, indices: range, whole_every: int
) -> tuple[list[tuple[int, str]], int, int | None]:
    queue = context.SimpleQueue()
    child = context.Process(target=_work, args=(name, indices, whole_every, queue))
    child.start()
    results: list[tuple[int, str]] = []
    memory = 0
    while True:
        if queue.empty():
            if not child.is_alive() and queue.empty():
                break
            time.sleep(0.005)
            continue
        what, value, outcome = queue.get()
        if what == "end":
            results.append((value, outcome))
        elif what == "memory":
            memory = value
    child.join()
    return results, memory, child.exitcode


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--whole-every", type=int, default=100, help="every so many inputs through a whole command")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "fuzz.json")
    arguments = parser.parse_args()
    found = fuzz(arguments.inputs, whole_every=arguments.whole_every)
    text = json.dumps(found, indent=2) + "\n"
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text(text)
    print(text, end="")
    return 1 if found["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
