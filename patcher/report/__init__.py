# SPDX-License-Identifier: Apache-2.0
"""Reports: one room a command, one small file a format, all made from the same report.

report          what was measured, as plain JSON values
sections        what every report says of a model
evaluation      the report of evaluate
folder          the folder that a report is written to
table           a table in Markdown
harden/ scan/   their reports
audit/ verify/  their reports
"""
