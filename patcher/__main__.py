# SPDX-License-Identifier: Apache-2.0
"""`python -m patcher ...` is `patcher ...`; both say what to install where only the runtime is there."""

from __future__ import annotations

import sys

from patcher.allocator import keep_freed_memory


def main() -> int:
    """Run a command of this process's arguments; its exit code."""
    try:
        from patcher._cli import main as run
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"patcher: error: {error.name} is not installed; the commands need more than the runtime: "
            "pip install 'onnx-patcher[cpu]' (or 'onnx-patcher[gpu]')\n"
        )
        return 2
    keep_freed_memory()
    return run()


if __name__ == "__main__":
    sys.exit(main())
