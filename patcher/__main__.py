# SPDX-License-Identifier: Apache-2.0
"""`python -m patcher ...` is `patcher ...`."""

from __future__ import annotations

import sys

from patcher._cli import main

if __name__ == "__main__":
    sys.exit(main())
