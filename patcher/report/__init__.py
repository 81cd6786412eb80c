# SPDX-License-Identifier: Apache-2.0
"""Reports: one small file a format, all made from the same report."""
