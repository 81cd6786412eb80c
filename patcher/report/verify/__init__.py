# SPDX-License-Identifier: Apache-2.0
"""The report of the gate, in each format."""
