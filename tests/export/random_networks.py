# SPDX-License-Identifier: Apache-2.0
"""Random small classifiers with everything that a factor can meet on its way."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from onnx import TensorProto

from tests.tiny_models import build, node

CHANNELS, SIDE = 4, 8
LAYERS = ("conv", "depthwise", "grouped", "conv_bn", "max_pool", "average_pool", "add", "add_conv", "concat", "split")
LAYERS += ("pad", "scale", "offset", "transposed", "squeeze_excite", "preactivation", "matmul")
ACTIVATIONS = ("Relu", "ReLU6", "Max", "HardSwish", "Sigmoid", "none")


class Network:
    """Nodes and weights in the making; every tensor of `stream` is ``(N, 4, 8, 8)``."""

    def __init__(self, seed, dtype=np.float32):
        self.rng, self.dtype = np.random.default_rng(seed), dtype
        self.nodes, self.weights, self.stream = [], {}, []

    def weight(self, *shape, positive=False):
        name = f"w{len(self.weights)}"
        value = self.rng.standard_normal(shape) / max(1, np.prod(shape[1:])) ** 0.5
        self.weights[name] = (np.abs(value) + 0.5 if positive else value).astype(self.dtype)
        return name

    def add(self, operator, inputs, **attributes):
        name = f"t{len(self.nodes)}"
        self.nodes.append(node(operator, inputs, [name], **attributes))
        return name

    def conv(self, source, *, channels=CHANNELS, group=1, kernel=3, into=CHANNELS, bias=True):
        names = [self.weight(into, channels // group, kernel, kernel), *([self.weight(into)] if bias else [])]
        return self.add("Conv", [source, *names], pads=[kernel // 2] * 4, group=group)

    def normalize(self, source):
        parts = [self.weight(CHANNELS), self.weight(CHANNELS), self.weight(CHANNELS)]
        return self.add("BatchNormalization", [source, *parts, self.weight(CHANNELS, positive=True)])

    def constant(self, value):
        name = f"c{len(self.weights)}"
        self.weights[name] = np.asarray(value, self.dtype)
        return name

    def activate(self, source, kind):
        if kind == "ReLU6":
            return self.add("Clip", [source, self.constant(0), self.constant(1.5)])
        if kind == "Max":
            return self.add("Max", [source, self.constant(0)])
        return source if kind == "none" else self.add(kind, [source])

    def layer(self, kind, source, other):
        if kind in ("conv", "grouped", "depthwise"):
            return self.conv(
                source, group={"conv": 1, "grouped": 2, "depthwise": CHANNELS}[kind], bias=kind != "grouped"
            )
        if kind == "conv_bn":
            return self.normalize(self.conv(source, bias=False))
        if kind in ("max_pool", "average_pool"):
            operator = "MaxPool" if kind == "max_pool" else "AveragePool"
            return self.add(operator, [source], kernel_shape=[3, 3], pads=[1] * 4)
        if kind == "add":
            return self.add("Add", [source, other])
        if kind == "add_conv":
            return self.add("Add", [self.conv(source), other])
        if kind == "concat":
            wide = self.add("Concat", [source, other], axis=1)
            return self.conv(wide, channels=2 * CHANNELS, kernel=1)
        if kind == "split":
            halves = [f"t{len(self.nodes)}a", f"t{len(self.nodes)}b"]
            self.nodes.append(node("Split", [source], halves, axis=1))
            return self.conv(self.add("Concat", [halves[1], halves[0]], axis=1), kernel=1)
        if kind == "pad":
            self.weights[name := f"p{len(self.weights)}"] = np.array([0, 0, 1, 1, 0, 0, 1, 1])
            padded = self.add("Pad", [source, name])
            return self.add("Conv", [padded, self.weight(CHANNELS, CHANNELS, 3, 3)])
        return self._rarer(kind, source)

    def _rarer(self, kind, source):
        if kind == "scale":
            return self.add("Mul", [source, self.weight(1, CHANNELS, 1, 1)])
        if kind == "offset":
            return self.add("Sub" if self.rng.random() < 0.5 else "Add", [source, self.weight(CHANNELS, 1, 1)])
        if kind == "transposed":
            return self.add("ConvTranspose", [source, self.weight(CHANNELS, 2, 1, 1), self.weight(CHANNELS)], group=2)
        if kind == "squeeze_excite":
            gate = self.conv(self.add("GlobalAveragePool", [source]), kernel=1)
            return self.add("Mul", [source, self.add("Sigmoid", [self.conv(self.add("Relu", [gate]), kernel=1)])])
        if kind == "preactivation":
            return self.conv(self.add("Relu", [self.normalize(source)]))
        last = self.add("Transpose", [source], perm=[0, 2, 3, 1])
        mixed = self.add("MatMul", [last, self.weight(CHANNELS, CHANNELS)])
        return self.add("Transpose", [mixed], perm=[0, 3, 1, 2])

    def head(self, source, kind):
        if kind == "pooled":
            flat = self.add("Flatten", [self.add("GlobalAveragePool", [source])])
            width = CHANNELS
        elif kind == "mean":
            flat, width = self.add("ReduceMean", [source], axes=[2, 3], keepdims=0), CHANNELS
        else:
            flat, width = self.add("Flatten", [source]), CHANNELS * SIDE * SIDE
        hidden = self.add("Relu", [self.add("Gemm", [flat, self.weight(6, width), self.weight(6)], transB=1)])
        self.nodes.append(node("Gemm", [hidden, self.weight(6, 4), self.weight(4)], ["logits"], alpha=0.5, beta=2.0))


@st.composite
def networks(draw, dtype=np.float32):
    """A random classifier; outputs of layers may be outputs of the graph as well."""
    network = Network(draw(st.integers(0, 2**16)), dtype)
    network.stream.append(network.activate(network.conv("image", channels=3), draw(st.sampled_from(ACTIVATIONS))))
    for _ in range(draw(st.integers(1, 6))):
        source, other = draw(st.sampled_from(network.stream[-2:])), draw(st.sampled_from(network.stream))
        made = network.layer(draw(st.sampled_from(LAYERS)), source, other)
        network.stream.append(network.activate(made, draw(st.sampled_from(ACTIVATIONS))))
    network.head(network.stream[-1], draw(st.sampled_from(["pooled", "mean", "flat"])))
    outputs = [("logits", ("N", 4))]
    if draw(st.integers(0, 4)) == 0:
        outputs.append((network.stream[len(network.stream) // 2], ("N", CHANNELS, SIDE, SIDE)))
    elem_type = TensorProto.FLOAT16 if dtype == np.float16 else TensorProto.FLOAT
    return build(network.nodes, network.weights, outputs=outputs, opset=14, elem_type=elem_type)
