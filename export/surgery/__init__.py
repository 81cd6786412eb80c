# SPDX-License-Identifier: Apache-2.0
"""The one door to onnx-graphsurgeon.

surgery    open a graph, close it without losing anything
restore    what the round trip loses
constants  values in the type and shape that a tensor takes
"""
