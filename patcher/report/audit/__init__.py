# SPDX-License-Identifier: Apache-2.0
"""The report of an audit of a training set.

files  suspects.csv and suspects.png
"""
