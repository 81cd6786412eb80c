# SPDX-License-Identifier: Apache-2.0
"""NFT: a mask per channel (Karim et al., ECCV 2024).

options  options and the floor mu(l), without torch
method   the method, from clean images to a patch
fit      what is minimised, measured and kept
masks    masks and re-estimated statistics, and what the patch says of them
caught   images that a service flagged, and their labels
mixup    convex pairs of pictures
"""
