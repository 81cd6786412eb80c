# SPDX-License-Identifier: Apache-2.0
"""UNIT: an upper bound per neuron (Cheng et al., ECCV 2024).

options  options, without torch
method   the method, from clean images to a patch
fit      what is minimised, measured and kept
bounds   the bounds as functions of the parameters
ties     one bound vector along a residual stream
"""
