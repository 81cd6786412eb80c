# SPDX-License-Identifier: Apache-2.0
"""One graph edit a file: what each correction of a patch becomes in the graph.

upper_bound    Min behind an activation
weight_mask    a mask times a weight
bias           a shifted bias
affine         scale and shift behind a tensor
normalization  new running statistics
weights        new values of an initializer
"""
