# SPDX-License-Identifier: Apache-2.0
"""BNA: a realigned second pass. Options, the objective, the fit, the normalisation, histograms."""
