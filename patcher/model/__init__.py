# SPDX-License-Identifier: Apache-2.0
"""An ONNX classifier.

model       the classifier: read, checked, run once, described
file        reading with external data, writing whole or not at all
check       what a model must pass first
interface   its input, class scores and classes
inference   shapes and element types of every tensor
size        how large the graph is with local functions written out
provenance  where a hardened model came from
"""
