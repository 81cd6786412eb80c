# SPDX-License-Identifier: Apache-2.0
"""The operators, one file a family. Importing this package registers them all."""

from __future__ import annotations

import importlib

FAMILIES = (
    "activation",
    "attention",
    "casting",
    "control",
    "convolution",
    "elementwise",
    "indexing",
    "layout",
    "linear",
    "normalization",
    "pooling",
    "quantization",
    "recurrent",
    "reduction",
    "resize",
    "sampling",
    "shape",
)

for _family in FAMILIES:
    importlib.import_module(f"{__name__}.{_family}")
