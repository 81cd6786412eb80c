# SPDX-License-Identifier: Apache-2.0
"""The built-in families, one file each. Importing this package registers them, cheap searches first."""

from __future__ import annotations

import importlib

for _name in ("tones", "colour", "warp", "kernel", "stripes", "waves", "generator", "additive", "patch", "words"):
    importlib.import_module(f"{__name__}.{_name}")
