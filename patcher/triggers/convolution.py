# SPDX-License-Identifier: Apache-2.0
"""Convolution with weights of its own for each picture."""

from __future__ import annotations

from typing import Any

import numpy as np

from patcher.triggers.arrays import Array


def convolve(images: Array, weights: Array) -> Array:
    """Each picture with its own weights (or all with one set); the edge repeats outside the picture.

    Args:
        images: ``(N, C, H, W)``, NumPy or torch.
        weights: ``(N or 1, D, C, side, side)`` of the same kind, `side` odd.

    Returns:
        ``(N, D, H, W)``.
    """
    count, channels, height, width = images.shape
    _, outputs, _, side, _ = weights.shape
    reach = side // 2
    if isinstance(images, np.ndarray):
        padded = np.pad(images, ((0, 0), (0, 0), (reach, reach), (reach, reach)), mode="edge")
        result: Any = np.zeros((count, outputs, height * width), images.dtype)
        for row in range(side):
            for column in range(side):
                shifted = padded[:, :, row : row + height, column : column + width].reshape(count, channels, -1)
                result += weights[:, :, :, row, column] @ shifted
        return result.reshape(count, outputs, height, width)
    from torch.nn.functional import conv2d, pad

    replicated = pad(images, (reach,) * 4, mode="replicate")
    own = weights.expand(count, *weights.shape[1:]).reshape(count * outputs, channels, side, side)
    one = replicated.reshape(1, count * channels, *replicated.shape[2:])  # a group a picture
    return conv2d(one, own, groups=count).reshape(count, outputs, height, width)
