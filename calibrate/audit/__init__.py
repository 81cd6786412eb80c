# SPDX-License-Identifier: Apache-2.0
"""The audit of a training set: activations, their split in two, groups of suspects, confirmation, findings."""
