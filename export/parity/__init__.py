# SPDX-License-Identifier: Apache-2.0
"""Whether ONNX Runtime computes what was calibrated: with neutral corrections, with the patch, of the guard."""
