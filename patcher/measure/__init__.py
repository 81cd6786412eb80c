# SPDX-License-Identifier: Apache-2.0
"""What is measured in ONNX Runtime: scores, latency, peak memory."""
