# SPDX-License-Identifier: Apache-2.0
"""The report of a hardening.

document  the report as plain values
files     the report folder
markdown  report.md
html      report.html
rows      tables as text
figures   pictures of the calibration
masks     channel masks per masked constant
"""
