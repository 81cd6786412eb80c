# SPDX-License-Identifier: Apache-2.0
"""The report of a scan.

document  scan.json, and scan.md made from it
files     the report folder
figures   pictures of norms and triggers
"""
