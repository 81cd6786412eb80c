# SPDX-License-Identifier: Apache-2.0
"""Where a channel mask acts: which constant it multiplies, along which axis, and what it must leave out.

A channel site with a BatchNormalization behind it is masked at gamma, any other at the weight itself:

    Conv, ConvTranspose, depthwise and grouped      output channels of the weight
    Gemm (transB 0 or 1), MatMul (constant left or right)      its rows or columns

The layer that makes the class scores is left out: its channels are the classes, and a mask there would be
a verdict on a class. A constant that several nodes read is masked for all of them, with one mask, when all
are layers that take the same mask; otherwise it is refused with the reason.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray

from patcher.graph.flow import DataFlow, attribute, is_standard
from patcher.graph.site import Site
from patcher.graph.sites import head_tensors
from patcher.model.model import Model


@dataclass(frozen=True)
class MaskLayer:
    """One tensor whose channels are masked.

    Attributes:
        tensor: The operator's output, or that of the BatchNormalization behind it.
        initializer: The constant that the mask multiplies, as the node reads it.
        channels: Number of channels.
        channel_axis: Their axis in `tensor`.
        rank: Of `tensor`.
        index: For every element of the mask its channel: int64, of the constant's rank.
        normalization: The BatchNormalization, if there is one.
    """

    tensor: str
    initializer: str
    channels: int
    channel_axis: int
    rank: int
    index: NDArray[np.int64]
    normalization: onnx.NodeProto | None = None

    def weight_mask(self, mask: NDArray[np.float32]) -> NDArray[np.float32]:
        """The mask ``(channels,)`` as it multiplies the constant."""
        return mask[self.index]

    @property
    def broadcast(self) -> tuple[int, ...]:
        """Shape of a value a channel beside `tensor`: ``(1, C, 1, 1)``."""
        return tuple(self.channels if axis == self.channel_axis else 1 for axis in range(self.rank))


@dataclass(frozen=True)
class Refusal:
    """A channel site that gets no mask, and why."""

    tensor: str
    reason: str


def mask_layers(model: Model, sites: Sequence[Site]) -> tuple[tuple[MaskLayer, ...], tuple[Refusal, ...]]:
    """Find what can be masked.

    Args:
        model: The model.
        sites: Its channel sites.

    Returns:
        The layers in graph order, and the sites that are left out.
    """
    flow = DataFlow(model.proto.graph, model.input_names)
    head = head_tensors(model.logits, flow)
    found: dict[str, list[tuple[MaskLayer, onnx.NodeProto]]] = defaultdict(list)
    refused = []
    for site in sites:
        if site.tensor in head or site.normalization in head:
            refused.append(Refusal(site.tensor, "its channels are the classes"))
        elif (layer := _layer(site, flow, model)) is None or (node := flow.producer(layer.tensor)) is None:
            refused.append(Refusal(site.tensor, "its weight has no known shape, or not one mask value a channel"))
        else:
            found[layer.initializer].append((layer, node))
    layers = []
    for name, users in found.items():
        if reason := _conflict(name, users, flow):
            refused += [Refusal(layer.tensor, reason) for layer, _ in users]
        else:
            layers += [layer for layer, _ in users]
    return tuple(layers), tuple(refused)


def _layer(site: Site, flow: DataFlow, model: Model) -> MaskLayer | None:
    if site.normalization is not None:
        node = flow.producer(site.normalization)
        shape = model.shapes.get(site.normalization)
        channels = shape[1] if shape and len(shape) > 1 else None
        # Gamma may be computed; a mask is for constants.
        if node is None or shape is None or channels is None or not flow.weight(node.input[1]):
            return None
        return MaskLayer(site.normalization, node.input[1], channels, 1, len(shape), np.arange(channels), node)
    node = flow.producer(site.tensor)
    if node is None:
        return None
    name = next(item for item in (node.input[1], node.input[0]) if flow.weight(item))
    shape = model.shapes.get(name)
    if shape is None or any(length is None for length in shape):
        return None
    index = _channel_index(node, name, tuple(length or 0 for length in shape))
    if index is None or index.size == 0 or int(index.max()) + 1 != site.channels:
        return None
    return MaskLayer(site.tensor, name, site.channels, site.channel_axis, len(site.shape), index)


def _channel_index(node: onnx.NodeProto, name: str, shape: tuple[int, ...]) -> NDArray[np.int64] | None:
    """The output channel that each slice of a weight makes, of the weight's rank."""
    if is_standard(node, "Conv"):
        return _along(0, shape)
    if is_standard(node, "ConvTranspose"):
        group = int(attribute(node, "group", 1))
        if group == 1:
            return _along(1, shape)
        # Input channel c belongs to group c // (C / group), whose outputs are a block of their own.
        block = np.arange(shape[0]) // (shape[0] // group) * shape[1]
        index = block[:, None] + np.arange(shape[1])
        return index.reshape(index.shape + (1,) * (len(shape) - 2))
    if is_standard(node, "Gemm"):
        return _along(0 if attribute(node, "transB", 0) else 1, shape)
    if len(shape) < 2:
        return None
    return _along(len(shape) - 1 if node.input[1] == name else len(shape) - 2, shape)


def _along(axis: int, shape: tuple[int, ...]) -> NDArray[np.int64]:
    return np.arange(shape[axis]).reshape([-1 if other == axis else 1 for other in range(len(shape))])


def _conflict(name: str, users: Sequence[tuple[MaskLayer, onnx.NodeProto]], flow: DataFlow) -> str | None:
    """Why a constant cannot be masked for all its readers; ``None`` when it can."""
    first = users[0][0]
    if any(not np.array_equal(layer.index, first.index) for layer, _ in users):
        return f"{name!r} is shared by nodes that read its channels along different axes"
    known = [node for _, node in users]
    for node in flow.consumers(name):
        # The same constant may be read twice by one node, as weight and as something else.
        if not any(node is other for other in known) or list(node.input).count(name) > 1:
            return f"{name!r} is shared with {node.op_type} {node.name or node.output[0]!r}, which is no masked layer"
    if name in flow.outputs:
        return f"{name!r} is an output of the graph"
    return None


@dataclass(frozen=True)
class Layer:
    """Where the numbers of one channel site lie, as names of initializers.

    Attributes:
        site: The site.
        weight: Its weight, and where in it each channel lies; ``None`` for the class scores' own layer and
            for weights that nodes share in different ways.
        scale: gamma.
        shift: beta, or the bias of the linear operator.
    """

    site: Site
    weight: MaskLayer | None
    scale: str | None
    shift: str | None


def find_layers(model: Model, sites: Sequence[Site]) -> tuple[Layer, ...]:
    """Initializers of each channel site that hold floats in the main graph."""
    flow = DataFlow(model.proto.graph, model.input_names)
    known = {tensor.name for tensor in model.proto.graph.initializer}
    masks = {layer.tensor: layer for layer in mask_layers(model, [replace(s, normalization=None) for s in sites])[0]}

    def initializer(names: Sequence[str], place: int) -> str | None:
        name = flow.weight(names[place]) if len(names) > place and names[place] else None
        return name if name in known else None

    layers = []
    for site in sites:
        linear, mask = flow.producer(site.tensor), masks.get(site.tensor)
        if mask is not None and (name := flow.weight(mask.initializer)) in known:
            mask = replace(mask, initializer=str(name))
        else:
            mask = None
        scale, shift = None, initializer(list(linear.input), 2) if linear else None
        if site.normalization and (node := flow.producer(site.normalization)) is not None:
            scale, shift = initializer(list(node.input), 1), initializer(list(node.input), 2)
        layers.append(Layer(site, mask, scale, shift))
    return tuple(layers)
