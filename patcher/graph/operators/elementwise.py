# SPDX-License-Identifier: Apache-2.0
"""Arithmetic, comparison and logic, element by element with NumPy broadcasting."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import Tensor

from patcher.errors import UnsupportedGraphError
from patcher.graph.operators.registry import operator


def _binary(name: str, function: Any) -> None:
    """Register a broadcasting function of two tensors without attributes."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        result: Tensor = function(a, b)
        return result

    operator(name)(kernel)


def _unary(name: str, function: Any) -> None:
    """Register a function of one tensor without attributes."""

    def kernel(x: Tensor) -> Tensor:
        result: Tensor = function(x)
        return result

    operator(name)(kernel)


for _name, _function in {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Equal": torch.eq,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
}.items():
    _binary(_name, _function)

for _name, _function in {
    "Abs": torch.abs,
    "Neg": torch.neg,
    "Exp": torch.exp,
    "Log": torch.log,
    "Sqrt": torch.sqrt,
    "Reciprocal": torch.reciprocal,
    "Erf": torch.erf,
    "Sign": torch.sign,
    "Floor": torch.floor,
    "Ceil": torch.ceil,
    "Round": torch.round,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Tan": torch.tan,
    "Asin": torch.asin,
    "Acos": torch.acos,
    "Atan": torch.atan,
    "Sinh": torch.sinh,
    "Cosh": torch.cosh,
    "Asinh": torch.asinh,
    "Acosh": torch.acosh,
    "Atanh": torch.atanh,
    "IsNaN": torch.isnan,
    "Not": torch.logical_not,
    "BitwiseNot": torch.bitwise_not,
    "Identity": lambda x: x,
}.items():
    _unary(_name, _function)


@operator("Div")
def divide(a: Tensor, b: Tensor) -> Tensor:
    """``a / b``; integers are divided with truncation towards zero, as the standard asks."""
    if a.is_floating_point():
        return torch.div(a, b)
    return torch.div(a, b, rounding_mode="trunc")


@operator("Pow", host_if_constant=("exponent",))
def power(base: Tensor, exponent: Any) -> Tensor:
    """``base ** exponent`` in the base's type; a constant number is bound, since that is cheaper."""
    if isinstance(exponent, Tensor):
        return torch.pow(base, exponent).to(base.dtype)
    while isinstance(exponent, list) and len(exponent) == 1 and base.dim() > 0:
        exponent = exponent[0]
    if isinstance(exponent, list):
        exponent = torch.tensor(exponent, dtype=base.dtype, device=base.device)
    return torch.pow(base, exponent).to(base.dtype)


@operator("Mod")
def modulo(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    """Remainder with the sign of the divisor, or of the dividend where ``fmod`` is set."""
    if fmod:
        return torch.fmod(a, b)
    if a.is_floating_point():
        raise UnsupportedGraphError("Mod of floats without fmod=1 is not defined by the standard")
    return torch.remainder(a, b)


@operator("Max")
def maximum(*inputs: Tensor) -> Tensor:
    """Largest of all inputs, element by element."""
    return reduce(torch.maximum, inputs)


@operator("Min")
def minimum(*inputs: Tensor) -> Tensor:
    """Smallest of all inputs, element by element."""
    return reduce(torch.minimum, inputs)


@operator("Sum")
def total(*inputs: Tensor) -> Tensor:
    """Sum of all inputs, element by element."""
    return reduce(torch.add, inputs)


@operator("Mean")
def average(*inputs: Tensor) -> Tensor:
    """Mean of all inputs, element by element."""
    return reduce(torch.add, inputs) / len(inputs)


@operator("Where")
def choose(condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """``x`` where the condition holds, else ``y``."""
    return torch.where(condition, x, y)


@operator("IsInf")
def is_infinite(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    """Which elements are infinite, of the signs asked for."""
    positive = torch.isposinf(x) & bool(detect_positive)
    return positive | (torch.isneginf(x) & bool(detect_negative))


@operator("BitShift")
def shift_bits(x: Tensor, y: Tensor, *, direction: str) -> Tensor:
    """Shift to the left or right by ``y`` bits."""
    return torch.bitwise_left_shift(x, y) if direction == "LEFT" else torch.bitwise_right_shift(x, y)
