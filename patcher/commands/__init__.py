# SPDX-License-Identifier: Apache-2.0
"""One file a command: what it does, step by step, as a function of the Python API."""
