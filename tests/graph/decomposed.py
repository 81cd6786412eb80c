# SPDX-License-Identifier: Apache-2.0
"""Activations as exporters write them: several operators behind a convolution."""

from __future__ import annotations

import numpy as np

from tests.tiny_models import activation_model, node

CONSTANTS = {
    key: np.array(value, np.float32)
    for key, value in {
        "zero": 0,
        "half": 0.5,
        "one": 1,
        "minus": -1,
        "two": 2,
        "three": 3,
        "six": 6,
        "sixth": 1 / 6,
        "root": np.sqrt(2),
        "k": 1.702,
        "a": 0.044715,
        "b": np.sqrt(2 / np.pi),
        "slope": np.full((6, 1, 1), 0.1),
    }.items()
}


def _chain(*steps):
    """Nodes from ``operator input ... > output`` lines."""
    nodes = []
    for step in steps:
        left, output = step.split(" > ")
        operator, *inputs = left.split()
        attributes = {"alpha": 1 / 6, "beta": 0.5} if operator == "HardSigmoid" else {}
        nodes.append(node(operator, inputs, [output], **attributes))
    return nodes


DECOMPOSED = {
    "silu": ("SiLU", "Sigmoid c1 > s", "Mul c1 s > act"),
    "silu, gate first": ("SiLU", "Sigmoid c1 > s", "Mul s c1 > act"),
    "quick gelu": ("QuickGELU", "Mul c1 k > m", "Sigmoid m > s", "Mul c1 s > act"),
    "hardswish by hardsigmoid": ("HardSwish", "HardSigmoid c1 > s", "Mul c1 s > act"),
    "hardswish, divided last": (
        "HardSwish",
        "Add c1 three > p",
        "Clip p zero six > q",
        "Mul c1 q > m",
        "Div m six > act",
    ),
    "hardswish, divided first": (
        "HardSwish",
        "Add three c1 > p",
        "Clip p zero six > q",
        "Div q six > d",
        "Mul c1 d > act",
    ),
    "hardswish by a sixth": (
        "HardSwish",
        "Add c1 three > p",
        "Clip p zero six > q",
        "Mul q sixth > d",
        "Mul c1 d > act",
    ),
    "hardswish by min and relu": (
        "HardSwish",
        "Add c1 three > p",
        "Relu p > r",
        "Min r six > q",
        "Mul c1 q > m",
        "Mul m sixth > act",
    ),
    "mish": ("Mish", "Softplus c1 > p", "Tanh p > t", "Mul c1 t > act"),
    "mish by log": ("Mish", "Exp c1 > e", "Add e one > f", "Log f > p", "Tanh p > t", "Mul c1 t > act"),
    "gelu, half first": (
        "GELU",
        "Mul c1 half > h",
        "Div c1 root > d",
        "Erf d > e",
        "Add e one > f",
        "Mul h f > act",
    ),
    "gelu, half last": ("GELU", "Div c1 root > d", "Erf d > e", "Add e one > f", "Mul c1 f > m", "Mul m half > act"),
    "gelu, half on the gate": (
        "GELU",
        "Div c1 root > d",
        "Erf d > e",
        "Add one e > f",
        "Mul f half > g",
        "Mul c1 g > act",
    ),
    "gelu by tanh": (
        "GELU",
        "Pow c1 three > p",
        "Mul p a > q",
        "Add c1 q > r",
        "Mul r b > s",
        "Tanh s > t",
        "Add t one > u",
        "Mul c1 half > h",
        "Mul h u > act",
    ),
}


def decomposed(name, *, as_nodes=False):
    """The activation's name, and a model that has it; constants as initializers or as nodes."""
    operator, *steps = DECOMPOSED[name]
    nodes = _chain(*steps)
    used = {key: CONSTANTS[key] for item in nodes for key in item.input if key in CONSTANTS}
    if as_nodes:
        constants = [node("Constant", [], [key], value_float=float(value)) for key, value in used.items()]
        nodes, used = constants + nodes, {}
    return operator, activation_model(nodes, used)
