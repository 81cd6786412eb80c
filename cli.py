# SPDX-License-Identifier: Apache-2.0
"""Launcher for a checkout: `python cli.py ...` is `patcher ...`. The commands live in patcher._cli."""

from __future__ import annotations

import sys

from patcher._cli import main

if __name__ == "__main__":
    sys.exit(main())
