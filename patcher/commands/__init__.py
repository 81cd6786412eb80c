# SPDX-License-Identifier: Apache-2.0
"""One file a command: what it does, step by step, as a function of the Python API.

harden             calibrate, apply, prove parity, measure, write
calibrate          fit a patch
apply              bake a patch
evaluate           accuracy and attack success
compare            several methods side by side
plan               what harden would do
scan               search for triggers
scan_without_data  the maximum-margin statistic alone
audit_data         poisoned training images
verify             the release gate
"""
