# SPDX-License-Identifier: Apache-2.0
"""NONE: repair with the training set. Options, rounds of audit and repair, neurons made anew, the checkpoint."""
