# SPDX-License-Identifier: Apache-2.0
"""How long `patcher verify` and every `--help` take to start, each in a fresh process, five times.

    python -m benchmarks.start_time

Of `verify`: everything that it imports while it runs, by `python -X importtime`. Of help: the whole command. On a
busy machine wall time says little, so the processor time of the process is kept beside it and decides. torch must
not be among the modules of either.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.record import machine_record

LIMIT_SECONDS = 1.0
# The command, and what it imports on its way.
PROGRAM = "import patcher._cli.verify, patcher.commands.verify, patcher.report.verify.files, onnxruntime"
HELP = (
    ("--help",),
    ("harden", "--help"),
    ("harden", "--method", "bna", "--help"),
    *((name, "--help") for name in ("inspect", "scan", "compare", "audit-data", "calibrate", "apply", "show")),
    *((name, "--help") for name in ("verify", "policy", "evaluate")),
)
_LINE = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \| (\s*)(\S+)")


def imports() -> tuple[dict[str, float], float]:
    """Own import time in seconds of every module that `verify` loads, and the process's processor time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    finished = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = [match for line in finished.stderr.splitlines() if (match := _LINE.match(line))]
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {match.group(4): int(match.group(1)) / 1e6 for match in found}, processor


def measure(runs: int) -> dict[str, Any]:
    """Median over fresh processes, and the heaviest top-level packages of the last one."""
    totals: list[float] = []
    processor: list[float] = []
    last: dict[str, float] = {}
    for _ in range(runs):
        last, seconds = imports()
        totals.append(sum(last.values()))
        processor.append(seconds)
    packages: dict[str, float] = {}
    for name, seconds in last.items():
        packages[name.split(".")[0]] = packages.get(name.split(".")[0], 0.0) + seconds
    heaviest = sorted(packages.items(), key=lambda item: -item[1])[:8]
    return {
        "processor_s": round(statistics.median(processor), 3),
        "imports_s": round(statistics.median(totals), 3),
        "runs": [
            {"processor_s": round(a, 3), "imports_s": round(b, 3)} for a, b in zip(processor, totals, strict=True)
        ],
        "heaviest_packages_s": {name: round(seconds, 3) for name, seconds in heaviest},
        "modules": len(last),
        "torch": any(name.split(".")[0] == "torch" for name in last),
    }


def measure_help(arguments: tuple[str, ...], runs: int) -> dict[str, Any]:
    """Medians of wall and processor time of one help text, and whether torch was loaded."""
    wall, processor = [], []
    for _ in range(runs):
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run([sys.executable, "-m", "patcher", *arguments], capture_output=True, check=True)
        wall.append(time.perf_counter() - started)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    traced = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "patcher", *arguments], capture_output=True, text=True, check=True
    )
    return {
        "command": " ".join(("patcher", *arguments)),
        "wall_s": round(statistics.median(wall), 3),
        "processor_s": round(statistics.median(processor), 3),
        "torch": re.search(r"\| +torch$", traced.stderr, re.MULTILINE) is not None,
    }


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "start_time.json")
    arguments = parser.parse_args()
    verify, texts = measure(arguments.runs), [measure_help(item, arguments.runs) for item in HELP]
    found = {"verify": verify, "help": texts, "machine": machine_record()}
    text = json.dumps(found, indent=2) + "\n"
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text(text)
    print(text, end="")
    slow = any(item["torch"] or item["processor_s"] > LIMIT_SECONDS for item in (verify, *texts))
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
