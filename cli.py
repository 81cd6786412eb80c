# SPDX-License-Identifier: Apache-2.0
"""Launcher for a checkout: `python cli.py ...` is `patcher ...`. The commands live in patcher._cli."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    try:
        from patcher._cli import main
        from patcher.calibrate import METHODS  # noqa: F401 - mapped into the package by an installation only
    except ModuleNotFoundError as error:
        sys.stderr.write(f"patcher: error: {error.name} is not installed; run 'make demo' or 'pip install -e .[cpu]'\n")
        sys.exit(2)
    sys.exit(main())
