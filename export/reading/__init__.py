# SPDX-License-Identifier: Apache-2.0
"""The way back: the corrections that a hardened graph holds. What is read is applied again before it is believed."""
