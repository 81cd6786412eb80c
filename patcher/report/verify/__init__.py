# SPDX-License-Identifier: Apache-2.0
"""The report of the gate.

document  every check, the two models, the policy
files     the report folder
rows      checks as text
markdown  report.md
html      one HTML page
junit     JUnit XML
sarif     SARIF 2.1.0
"""
