# SPDX-License-Identifier: Apache-2.0
"""The one door to onnx-graphsurgeon: opens a graph, closes it, restores what the round trip loses."""
