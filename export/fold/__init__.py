# SPDX-License-Identifier: Apache-2.0
"""Bounds folded into weights and scalar clips.

fold     the algebra, and the whole
sites    bounds that may be folded
plan     new constants and operands to rescale
factors  the factor of every channel
weights  factors taken into linear operators
zeros    channels with bound 0
edit     the plan written into the model
"""
