# SPDX-License-Identifier: Apache-2.0
"""Run a model in a process of its own and say how much memory that took at most.

``python -m patcher.measure.peak_memory MODEL FOLDER INPUT...``, with ``0.npy``, ``1.npy`` for the inputs in order,
prints ``{"peak_bytes": ...}``. It is a process of its own because memory that was freed is not given back: in one
process the second model would look free.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import numpy as np

from patcher.runtime import create_session

_RUNS = 3


def peak_bytes() -> int:
    """Peak resident memory of this process in bytes.

    Linux keeps ``ru_maxrss`` across exec, so that a child starts with its parent's; ``VmHWM`` is its own.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM:")), "")
        if line:
            return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes everywhere but on macOS.
    return peak if sys.platform == "darwin" else 1024 * peak


def main(model: str, folder: str, *names: str) -> None:
    """Load, run, print."""
    arrays = [np.load(Path(folder) / f"{place}.npy", allow_pickle=False) for place in range(len(names))]
    session = create_session(model, threads=1)
    for _ in range(_RUNS):
        session.run(None, dict(zip(names, arrays, strict=True)))
    print(json.dumps({"peak_bytes": peak_bytes()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
