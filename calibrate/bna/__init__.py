# SPDX-License-Identifier: Apache-2.0
"""BNA: a realigned second pass (Li et al., 2023).

options        options, without torch
method         the method, from triggers to a patch
fit            the fit of one target: start, what is minimised, measured and kept
objective      the loss of one batch
histograms     soft histograms and the divergences between them
normalization  the normalisation h and its start
"""
