# SPDX-License-Identifier: Apache-2.0
"""UNIT: upper bounds per neuron. Options, the fit, the bounds, ties along residual streams."""
