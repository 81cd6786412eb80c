# SPDX-License-Identifier: Apache-2.0
"""The index of a fleet.

files  writes ``fleet.json``, ``fleet.html`` and ``junit.xml``
html   a page with one sortable table
junit  a case a model
"""
