# SPDX-License-Identifier: Apache-2.0
"""What every benchmark needs: the machine on record, paired timing, a measured child, result files.

Two things are compared by *paired* runs: they take turns, so that both see the same weather on a
shared machine, and the figure is the ratio of their medians. Its interval is a percentile bootstrap
over the pairs (Efron and Tibshirani 1993, chapter 13). It covers the noise of this run of this
process; another machine, or another day, may lie outside.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("onnx-patcher", "torch", "onnx", "onnxruntime", "onnxruntime-gpu", "onnx-graphsurgeon", "numpy")


@dataclass(frozen=True)
class PairedTiming:
    """Two functions timed in turns.

    Attributes:
        base_ms: Median of the first, milliseconds.
        other_ms: Median of the second, milliseconds.
        ratio: `other_ms / base_ms`.
        low: Lower end of the 95 % bootstrap interval of the ratio.
        high: Upper end.
        pairs: How many pairs were timed.
    """

    base_ms: float
    other_ms: float
    ratio: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        """The ratio with its interval, as it stands in tables."""
        return f"{self.ratio:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class ChildRun:
    """A finished command.

    Attributes:
        code: Exit code, negative for a signal.
        seconds: Wall clock time from start to end, interpreter start included.
        peak_mib: Highest resident memory of the largest of its processes, MiB.
        stdout: What it printed.
        stderr: What it reported.
        cpu_seconds: Processor time of all its threads.
    """

    code: int
    seconds: float
    peak_mib: float
    stdout: str
    stderr: str
    cpu_seconds: float = 0.0


def machine_record() -> dict[str, Any]:
    """Processor, cores, memory, system, interpreter, package versions and commit, as plain JSON values."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "cores": _cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": versions,
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def describe_machine(record: Mapping[str, Any]) -> str:
    """One line of prose from `machine_record`, for below a table."""
    packages = ", ".join(f"{name} {version}" for name, version in record["packages"].items())
    return (
        f"{record['processor']}, {record['cores']} cores, {record['memory_gib']} GiB, {record['system']}, "
        f"Python {record['python']}, {packages}; commit {record['commit']}, {record['date']}."
    )


def time_pairs(
    base: Callable[[], object],
    other: Callable[[], object],
    *,
    pairs: int = 50,
    warmup: int = 5,
    resamples: int = 2000,
    seed: int = 0,
) -> PairedTiming:
    """Time `base` and `other` in turns, the order within a pair alternating.

    Args:
        base: The reference.
        other: What is compared with it.
        pairs: Timed pairs.
        warmup: Pairs run before and not counted.
        resamples: Bootstrap resamples.
        seed: Seed of the bootstrap.

    Returns:
        Medians, their ratio and its interval.
    """
    functions = (base, other)
    elapsed = np.zeros((pairs, 2))
    for number in range(-warmup, pairs):
        for which in (0, 1) if number % 2 else (1, 0):
            start = time.perf_counter()
            functions[which]()
            if number >= 0:
                elapsed[number, which] = time.perf_counter() - start
    return summarize_pairs(elapsed, resamples=resamples, seed=seed)


def summarize_pairs(elapsed: NDArray[np.float64], *, resamples: int = 2000, seed: int = 0) -> PairedTiming:
    """Ratio of medians and its bootstrap interval from seconds `(pairs, 2)`, base first."""
    base, other = np.median(elapsed, axis=0)
    drawn = np.random.default_rng(seed).integers(0, len(elapsed), (resamples, len(elapsed)))
    medians = np.median(elapsed[drawn], axis=1)
    low, high = np.quantile(medians[:, 1] / medians[:, 0], (0.025, 0.975))
    return PairedTiming(
        base_ms=float(base * 1e3),
        other_ms=float(other * 1e3),
        ratio=float(other / base),
        low=float(low),
        high=float(high),
        pairs=len(elapsed),
    )


def run_child(command: Sequence[str], *, environment: Mapping[str, str] | None = None) -> ChildRun:
    """Run `command` to its end and measure it.

    On Linux a child's peak starts at what its parent held when it was started: keep the caller
    smaller than what it measures.
    """
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        start = time.perf_counter()
        child = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, **(environment or {})},
        )
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:
            child.kill()  # Ctrl-C here must not leave it computing
            child.wait()
            raise
        seconds = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        stdout.seek(0)
        stderr.seek(0)
        unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB on Linux
        return ChildRun(
            child.returncode,
            seconds,
            usage.ru_maxrss / unit,
            stdout.read(),
            stderr.read(),
            usage.ru_utime + usage.ru_stime,
        )


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; every cell as `str` gives it."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def write_result(
    name: str, *, command: str, rows: Sequence[Any], tables: str, folder: Path = RESULTS
) -> tuple[Path, Path]:
    """Write `<name>.json` (every figure) and `<name>.md` (the tables for people), both with the machine.

    Args:
        name: Stem of both files.
        command: The command line that makes them again.
        rows: Dataclass instances or plain JSON values.
        tables: Markdown.
        folder: Where to write.

    Returns:
        The two paths.
    """
    machine = machine_record()
    plain = [asdict(row) if hasattr(row, "__dataclass_fields__") else row for row in rows]
    folder.mkdir(parents=True, exist_ok=True)
    data, page = folder / f"{name}.json", folder / f"{name}.md"
    data.write_text(json.dumps({"command": command, "machine": machine, "rows": plain}, indent=1) + "\n")
    page.write_text(f"# {name}\n\n`{command}`\n\n{tables}\n{describe_machine(machine)}\n")
    return data, page


def _processor() -> str:
    """The processor's name; `/proc/cpuinfo` knows it on Linux, where `platform` does not."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _commit() -> str:
    """Short commit of the checkout, with a + where files differ from it; empty outside of git."""
    command = ("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+")
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
