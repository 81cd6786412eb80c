# SPDX-License-Identifier: Apache-2.0
"""What is measured in ONNX Runtime.

scores       accuracy, agreement, attack success
latency      paired runs of two models
peak_memory  memory of a process of its own
"""
