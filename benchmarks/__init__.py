# SPDX-License-Identifier: Apache-2.0
"""Measurements that can be repeated: each is one command, and its figures are kept as files."""
