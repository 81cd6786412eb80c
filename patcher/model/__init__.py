# SPDX-License-Identifier: Apache-2.0
"""An ONNX classifier: reading, checks, interface, types, provenance, writing."""
