# SPDX-License-Identifier: Apache-2.0
"""Triggers as they travel between scan, methods and gate."""
