# SPDX-License-Identifier: Apache-2.0
"""Reports: one room a command, one small file a format, all made from the same report.

report          what was measured, as plain JSON values
sections        what every report says of a model
page/           the HTML page of every report: one template, one style, what each verdict means
evaluation      the report of evaluate
comparison      the report of compare
folder          the folder that a report is written to
table           a table in Markdown
harden/ scan/   their reports
audit/ verify/  their reports
"""
