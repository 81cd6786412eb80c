# SPDX-License-Identifier: Apache-2.0
"""The audit of a training set: which images are poisoned (NONE, Sec. 4).

options       thresholds, without torch
audit         the whole, from images to findings
activations   one number a neuron and image
split         the best split of those numbers in two
groups        labels with a second group of images
confirmation  what the label of the second group rests on
"""
