# SPDX-License-Identifier: Apache-2.0
"""The run-time branch: the second pass beside the first, the block that selects, the guard file."""
