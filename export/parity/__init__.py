# SPDX-License-Identifier: Apache-2.0
"""Whether ONNX Runtime computes what was calibrated.

parity   the hardened model
guard    the plain model and its guard file
neutral  the patch that changes nothing
"""
