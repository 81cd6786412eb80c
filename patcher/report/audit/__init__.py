# SPDX-License-Identifier: Apache-2.0
"""The report of an audit of a training set.

document  audit.json
files     suspects.csv, suspects.png, the report folder
html      audit.html
"""
