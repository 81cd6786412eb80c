# SPDX-License-Identifier: Apache-2.0
"""Random small classifiers: chains, residual joins, shared weights, outputs that are used inside."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from tests.tiny_models import build, head, node

CHANNELS = 6
ACTIVATIONS = ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "Elu", "Softplus", "HardSigmoid", "Clip", "Silu")
KINDS = ("activation", "convolution", "shared convolution", "join", "normalization", "pool", "concat")


class Drawing:
    """A graph under construction; every tensor is (N, 6, 8, 8)."""

    def __init__(self, draw):
        self._draw = draw
        self._random = np.random.default_rng(draw(st.integers(0, 2**31 - 1)))
        self.weights = {
            "stem": self.numbers(CHANNELS, 3, 3, 3),
            "shared": self.numbers(CHANNELS, CHANNELS, 3, 3) / 5,
            "fc": self.numbers(4, CHANNELS),
            "fc_bias": self.numbers(4),
            "low": np.float32(-0.5),
            "high": np.float32(1.5),
        }
        self.nodes = [node("Conv", ["image", "stem"], ["t0"], pads=[1, 1, 1, 1])]
        self.tensors = ["t0"]

    def numbers(self, *shape):
        return self._random.standard_normal(shape).astype(np.float32)

    def _weight(self, kind, value):
        name = f"{kind}{len(self.weights)}"
        self.weights[name] = value
        return name

    def add(self):
        """One more step, on a tensor that may have other consumers."""
        kind, source = self._draw(st.sampled_from(KINDS)), self._draw(st.sampled_from(self.tensors))
        result = f"t{len(self.tensors)}"
        if kind == "activation":
            self._activation(source, result)
        elif kind in ("convolution", "shared convolution"):
            own = kind == "convolution"
            group = self._draw(st.sampled_from([1, 2, 6])) if own else 1
            shape = (CHANNELS, CHANNELS // group, 3, 3)
            weight = self._weight("w", self.numbers(*shape) / 5) if own else "shared"
            bias = [self._weight("b", self.numbers(CHANNELS))] if self._draw(st.booleans()) else []
            self.nodes.append(node("Conv", [source, weight, *bias], [result], pads=[1, 1, 1, 1], group=group))
        elif kind == "join":
            other = self._draw(st.sampled_from(self.tensors))
            self.nodes.append(
                node(self._draw(st.sampled_from(["Add", "Mul", "Sub", "Max"])), [source, other], [result])
            )
        elif kind == "normalization":
            parts = [self._weight("n", np.abs(self.numbers(CHANNELS)) + 0.1) for _ in range(4)]
            self.nodes.append(node("BatchNormalization", [source, *parts], [result]))
        elif kind == "pool":
            operator = self._draw(st.sampled_from(["MaxPool", "AveragePool"]))
            self.nodes.append(node(operator, [source], [result], kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
        else:
            self._concat(source, result)
        self.tensors.append(result)

    def _activation(self, source, result):
        operator = self._draw(st.sampled_from(ACTIVATIONS))
        if operator == "Clip":
            self.nodes.append(node("Clip", [source, "low", "high"], [result]))
        elif operator == "Silu":
            self.nodes += [
                node("Sigmoid", [source], [f"{result}_gate"]),
                node("Mul", [source, f"{result}_gate"], [result]),
            ]
        else:
            self.nodes.append(node(operator, [source], [result]))

    def _concat(self, source, result):
        other = self._draw(st.sampled_from(self.tensors))
        weight = self._weight("c", self.numbers(CHANNELS, 2 * CHANNELS, 1, 1) / 4)
        self.nodes += [
            node("Concat", [source, other], [f"{result}_both"], axis=1),
            node("Conv", [f"{result}_both", weight], [result]),
        ]


@st.composite
def classifiers(draw, *, most_steps=8):
    """A random classifier; its last tensor feeds the head, an inner one may be an output too."""
    drawing = Drawing(draw)
    for _ in range(draw(st.integers(1, most_steps))):
        drawing.add()
    outputs = [("logits", ("N", 4))]
    if draw(st.booleans()):
        outputs.append((draw(st.sampled_from(drawing.tensors)), ("N", CHANNELS, 8, 8)))
    return build(
        [*drawing.nodes, *head(drawing.tensors[-1])],
        drawing.weights,
        opset=draw(st.sampled_from([11, 13, 17, 20])),
        outputs=tuple(outputs),
        listed_as_inputs=draw(st.booleans()),
    )
