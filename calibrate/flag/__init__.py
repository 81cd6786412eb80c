# SPDX-License-Identifier: Apache-2.0
"""The run-time flag that needs no trigger: what is usual on clean images, and how unusual an image is.

    fit          a `patcher.patch.Flag` from clean images alone, and its threshold from the held-out ones

What it computes stands in `patcher.calibrate.patched` (PyTorch) and `patcher.export.branch.flag` (ONNX).
"""
