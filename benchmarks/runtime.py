# SPDX-License-Identifier: Apache-2.0
"""What a service installs and how long it takes to start: `onnx-patcher[runtime]` in a fresh environment.

    python -m benchmarks.runtime

Builds the wheel, installs it with the extra `runtime` into a new virtual environment by pip (from the index that pip
is configured with), and measures there: bytes on disk of each distribution, the time that the imports of a service
take, and the time from the start of the process to the first answer of the hardened sample. Each time is the median
of fresh processes; the processor time decides on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.record import markdown_table, run_child, write_result

ROOT = Path(__file__).resolve().parents[1]
LIMIT_SECONDS = 0.3
IMPORTS = "import patcher.runtime, onnxruntime"
ANSWER = (
    "import sys, numpy as np; from patcher.runtime import GuardedSession; "
    "print(GuardedSession(sys.argv[1], threads=1).classify(np.zeros((1, 1, 8, 8), np.float32)).labels[0])"
)
_SIZES = """
import json
from importlib.metadata import distributions
sizes = {d.name: sum(f.locate().stat().st_size for f in d.files or () if f.locate().is_file()) for d in distributions()}
print(json.dumps(sizes))
"""


@dataclass(frozen=True)
class Start:
    """A program in fresh processes.

    Attributes:
        what: What it does.
        seconds: Median wall clock time of the whole process.
        cpu_seconds: Median processor time of the whole process.
        peak_mib: Highest resident memory of any of them.
    """

    what: str
    seconds: float
    cpu_seconds: float
    peak_mib: float


def build_wheel(folder: Path) -> Path:
    """Build the checkout's wheel into a folder."""
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def environment(folder: Path, requirement: str) -> Path:
    """A new virtual environment with one requirement in it; its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q"]
    subprocess.run([*pip, "-c", str(ROOT / "constraints.txt"), requirement], check=True)
    return python


def harden(output: Path) -> None:
    """Harden the sample in a process of its own: a child's peak starts at what its parent holds."""
    sample = [str(ROOT / "samples" / name) for name in ("digits.onnx", "clean")]
    command = [sys.executable, "-m", "patcher", "harden", sample[0], "--clean-dir", sample[1], "-q", "-o", str(output)]
    subprocess.run(command, check=True)


def sizes(python: Path) -> dict[str, int]:
    """Bytes on disk of each distribution of an environment."""
    found: dict[str, int] = json.loads(subprocess.check_output([str(python), "-c", _SIZES]))
    return found


def start(python: Path, what: str, program: str, *arguments: str, runs: int) -> Start:
    """Run a program in fresh processes, once more than is counted: the first fills the disk's cache."""
    command = [str(python), "-I", "-c", program, *arguments]
    found = [run_child(command) for _ in range(runs + 1)][1:]
    failed = [run.stderr for run in found if run.code]
    if failed:
        raise RuntimeError(failed[0])
    seconds, cpu = (statistics.median(getattr(run, name) for run in found) for name in ("seconds", "cpu_seconds"))
    return Start(what, seconds, cpu, max(run.peak_mib for run in found))


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write ``results/runtime``; 1 if the imports take longer than the limit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=9)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = build_wheel(folder)
        python = environment(folder / "venv", f"{wheel}[runtime]")
        hardened = folder / "digits.onnx"
        harden(hardened)
        found = sizes(python)
        rows = [
            start(python, "an empty program", "pass", runs=options.runs),
            start(python, "import of NumPy and ONNX Runtime", "import numpy, onnxruntime", runs=options.runs),
            start(python, "imports of a service", IMPORTS, runs=options.runs),
            start(python, "first answer of the hardened sample", ANSWER, str(hardened), runs=options.runs),
        ]
        wheel_kib = wheel.stat().st_size / 2**10
    mib = {name: round(size / 2**20, 1) for name, size in sorted(found.items(), key=lambda item: -item[1])}
    times = [(row.what, f"{row.seconds:.3f}", f"{row.cpu_seconds:.3f}", f"{row.peak_mib:.0f}") for row in rows]
    tables = (
        markdown_table(("distribution", "MiB on disk"), [*mib.items(), ("all", round(sum(found.values()) / 2**20, 1))])
        + f"\nThe wheel: {wheel_kib:.0f} KiB.\n\n"
        + markdown_table(("process", "seconds", "processor seconds", "peak MiB"), times)
    )
    print(tables)
    write_result("runtime", command="python -m benchmarks.runtime", rows=[*rows, {"mib": mib}], tables=tables)
    needed = rows[2].cpu_seconds - rows[0].cpu_seconds
    print(f"imports: {needed:.3f} s of processor time, at most {LIMIT_SECONDS}")
    return int(needed > LIMIT_SECONDS)


if __name__ == "__main__":
    raise SystemExit(main())
