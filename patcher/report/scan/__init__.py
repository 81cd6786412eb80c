# SPDX-License-Identifier: Apache-2.0
"""The report of a scan.

document  scan.json, and scan.md made from it
html      the same as a page
files     the report folder
figures   pictures of norms and triggers
"""
