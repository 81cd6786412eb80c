# SPDX-License-Identifier: Apache-2.0
"""Masks and shifts whose product with a weight is all that a file holds.

A product ``p = round(w m)`` does not give m back exactly: ``p / w`` is only near it. Of the numbers nearby the one
is taken that makes every weight of the channel what it is in the file.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_NEIGHBOURS = 3  # the quotient of two roundings is off by less than two units in the last place


def channel_mask(before: NDArray[Any], after: NDArray[Any]) -> NDArray[np.float32] | None:
    """The mask, one value a channel of one axis, that makes one weight of another.

    Args:
        before: The weight.
        after: The masked weight, of the same shape and type.

    Returns:
        float32, 1 on every axis but one; ``None`` where there is no such mask.
    """
    for axis in range(before.ndim):
        rows = np.moveaxis(before, axis, 0).reshape(before.shape[axis], -1)
        products = np.moveaxis(after, axis, 0).reshape(rows.shape)
        factors = [_factor(row, product) for row, product in zip(rows, products, strict=True)]
        if all(factor is not None for factor in factors):
            shape = [len(factors) if index == axis else 1 for index in range(before.ndim)]
            return np.array(factors, np.float32).reshape(shape)
    return None


def scaled_shift(constant: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """The shift that, divided by a factor in single precision, gives a constant."""
    if factor in (0.0, 1.0):
        return constant
    divisor = np.float32(factor)
    shift = (constant.astype(np.float64) * float(divisor)).astype(np.float32)
    for candidate in nearby(shift):
        shift = np.where(shift / divisor == constant, shift, candidate)
    return shift


def nearby(values: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """The values, and their neighbours in single precision, nearest first."""
    found, low, high = [values], values, values
    for _ in range(_NEIGHBOURS):
        low = np.nextafter(low, np.float32(-np.inf), dtype=np.float32)
        high = np.nextafter(high, np.float32(np.inf), dtype=np.float32)
        found += [low, high]
    return found


def _factor(row: NDArray[Any], product: NDArray[Any]) -> np.float32 | None:
    if row.tobytes() == product.tobytes():
        return np.float32(1)
    largest = int(np.abs(row.astype(np.float64)).argmax())
    weight = float(row[largest])
    if not weight or not np.isfinite(weight):
        return None
    start = np.array(float(product[largest]) / weight, np.float32)
    for candidate in nearby(start):
        if np.array_equal((row * candidate.astype(row.dtype)).astype(row.dtype), product):
            return np.float32(candidate)
    return None
