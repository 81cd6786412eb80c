# SPDX-License-Identifier: Apache-2.0
"""The ONNX graph: where patches may act (``sites``) and how it runs in PyTorch (``interpreter``).

Import from the submodules. Nothing here imports torch, so that commands which only read a model
start without it.
"""

from __future__ import annotations
