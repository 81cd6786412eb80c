# SPDX-License-Identifier: Apache-2.0
"""The second pass of a branch: the graph from the image on once more, with realigned channels.

    x' = max(min(scale * x + shift, upper), lower)      at every realigned tensor

Nodes that depend on the image are copied under new names; everything else (weights above all) is shared.
What can be is folded into what is there: with one target, scale and shift go into the Conv or the
BatchNormalization that makes the tensor, and two finite bounds become a scalar ``Clip``, which ONNX Runtime
fuses into the Conv, and a per-channel affine map, which it runs in its blocked layout:

    max(min(y, upper), lower) = (upper - lower) * clip((y - lower) / (upper - lower), 0, 1) + lower

A bound that cannot bind is left out: an infinite one, and a lower
bound of at most zero where only ReLUs read the tensor, since ``relu(max(x, b)) = relu(x)`` for b <= 0.

ONNX Runtime 1.31 uses its blocked layout (NCHWc) inside a subgraph only for a Conv whose weight belongs to that
subgraph. The product of a shared weight and a small constant is folded into such a weight when the model is
loaded: the file stays small, and a second pass in an ``If`` costs what the first one does instead of twice that.

With several targets, the statistics of each row are gathered by its row of the stacked arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from patcher.errors import InputError, UnsupportedGraphError
from patcher.export.branch.block import Block
from patcher.export.surgery.constants import check_values, float_type, in_type
from patcher.graph.flow import is_standard
from patcher.model.model import Model
from patcher.model.subgraphs import reads, rename
from patcher.patch import Branch, Realignment

_SMALLEST_SPAN = np.float32(1e-6)  # keeps the division finite where both bounds are one value


def whole_inputs(model: Model) -> dict[str, str]:
    """Every input in its own place."""
    return {name: name for name in model.input_names}


def gathered_inputs(block: Block, model: Model, places: str) -> dict[str, str]:
    """The rows of every input at `places`, int64 ``(n, 1)``."""
    return {name: block.node("GatherND", [name, places], f"{name}_rows") for name in model.input_names}


def second_pass(
    block: Block,
    model: Model,
    branch: Branch,
    images: Mapping[str, str],
    row: str | None,
    *,
    localize: bool,
    bounds_only: bool = False,
) -> dict[str, str]:
    """Copy the graph from the image to its outputs, realigned.

    Args:
        block: Where the nodes go.
        model: The model.
        branch: What is different.
        images: Names of the tensors that take the inputs' places, by input.
        row: Name of an int64 tensor ``(N,)`` with each image's row of the stacked arrays; ``None`` for one target.
        localize: Make Conv weights the block's own at load; see the module's text.
        bounds_only: Leave scales and shifts out; they are one and zero.

    Returns:
        New name of every tensor that depends on the image.

    Raises:
        InputError: A correction does not fit its tensor.
        UnsupportedGraphError: A corrected tensor is not computed from the image in the main graph.
    """
    return _Copier(block, model, branch, row, localize, bounds_only).copy(images)


class _Copier:
    def __init__(
        self, block: Block, model: Model, branch: Branch, row: str | None, localize: bool, bounds_only: bool
    ) -> None:
        self.block, self.model, self.row, self.localize, self.bounds_only = block, model, row, localize, bounds_only
        self.corrections, self.targets = {item.tensor: item for item in branch.corrections}, len(branch.targets)
        self.constants = {item.name: item for item in model.proto.graph.initializer}
        self.renamed: dict[str, str] = {}

    def copy(self, images: Mapping[str, str]) -> dict[str, str]:
        graph = self.model.proto.graph
        self.renamed.update(images)
        waiting = set(self.corrections)
        needed = _needed(graph)
        for node in graph.node:
            dependent = any(name in self.renamed for name in reads(node))
            if dependent and any(name in needed for name in node.output):
                self._copy_node(node)
                waiting.difference_update(node.output)
        if waiting:
            raise UnsupportedGraphError(f"tensor {min(waiting)!r} does not lead from the image to an output")
        return self.renamed

    def _copy_node(self, node: onnx.NodeProto) -> None:
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        copied.name = self.block.names.new(f"{node.name or node.op_type}_second")
        rename(copied, self.renamed, outputs=False)
        for index, output in enumerate(node.output):
            if output:
                copied.output[index] = self.renamed[output] = self.block.names.new(f"{output}_second")
        self.block.nodes.append(copied)
        correction = self.corrections.get(node.output[0]) if self.row is None else None
        if correction:
            self._check(correction)
        if self._fold(node, copied, _Map(correction)) and correction:
            self._bound_folded(node.output[0], correction)
            return
        for output in node.output:
            if output in self.corrections:
                self._correct(output, self.corrections[output])

    def _fold(self, node: onnx.NodeProto, copied: onnx.NodeProto, change: _Map) -> bool:
        """Put scale and shift into the node's own constants, if that is possible."""
        if is_standard(node, "Conv"):
            return self._fold_convolution(node, copied, change)
        if is_standard(node, "BatchNormalization") and len(node.output) == 1:
            return self._fold_normalization(node, copied, change)
        return False

    def _fold_convolution(self, node: onnx.NodeProto, copied: onnx.NodeProto, change: _Map) -> bool:
        weight = self.constants.get(node.input[1])
        biased = len(node.input) > 2 and bool(node.input[2])
        bias = self.constants.get(node.input[2]) if biased else None
        if weight is None or (biased and bias is None) or not (change.correction or self.localize):
            return False
        channels, output = weight.dims[0], node.output[0]
        scale, shift = change.parts(channels)
        factor = in_type(scale.reshape(-1, *[1] * (len(weight.dims) - 1)), weight.data_type)
        self.block.nodes.pop()
        copied.input[1] = self.block.node(
            "Mul", [weight.name, self.block.constant(f"{output}_scale", factor)], f"{weight.name}_second"
        )
        self.block.nodes.append(copied)
        if bias is not None or change.correction:
            before = onnx.numpy_helper.to_array(bias).astype(np.float64) if bias is not None else np.zeros(channels)
            del copied.input[2:]
            copied.input.append(
                self.block.constant(f"{output}_bias", in_type(scale * before + shift, weight.data_type))
            )
        return True

    def _fold_normalization(self, node: onnx.NodeProto, copied: onnx.NodeProto, change: _Map) -> bool:
        parts = [self.constants.get(name) for name in node.input[1:5]]
        if any(part is None for part in parts) or not (change.correction or self.localize):
            return False
        gamma, beta, mean, var = (onnx.numpy_helper.to_array(part) for part in parts if part is not None)
        scale, shift = change.parts(len(gamma))
        beta = (scale * beta.astype(np.float64) + shift).astype(beta.dtype)
        gamma = (scale * gamma.astype(np.float64)).astype(gamma.dtype)
        for index, values in enumerate((gamma, beta, mean, var), start=1):
            copied.input[index] = self.block.constant(f"{node.output[0]}_statistic", values)
        return True

    def _bound_folded(self, tensor: str, correction: Realignment) -> None:
        """Bounds behind a node that already holds scale and shift."""
        change = _Map(correction)
        if not change.to_unit:
            self._bound(tensor, correction)
            return
        elem_type = float_type(self.model, tensor)
        low, high = (
            self.block.constant(f"{tensor}_unit", in_type(np.array(end, np.float32), elem_type)) for end in (0, 1)
        )
        clipped = self.block.node("Clip", [self.renamed[tensor], low, high], f"{tensor}_clipped")
        span, start = change.span, correction.lower.ravel()
        parts = (span, start, np.zeros_like(start), np.ones_like(start))
        constants = [self.block.constant(f"{tensor}_span", in_type(part, elem_type)) for part in parts]
        self.renamed[tensor] = self.block.node(
            "BatchNormalization", [clipped, *constants], f"{tensor}_realigned", epsilon=0.0
        )

    def _correct(self, tensor: str, correction: Realignment) -> None:
        """Add a correction behind a copied node; later copies read the corrected tensor."""
        self._check(correction)
        for operator, part in () if self.bounds_only else (("Mul", "scale"), ("Add", "shift")):
            values = self._values(tensor, part, getattr(correction, part))
            self.renamed[tensor] = self.block.node(operator, [self.renamed[tensor], values], f"{tensor}_realigned")
        self._bound(tensor, correction)

    def _bound(self, tensor: str, correction: Realignment) -> None:
        name, current = f"{tensor}_realigned", self.renamed[tensor]
        if not np.isposinf(correction.upper).all():
            current = self.block.node("Min", [current, self._values(tensor, "upper", correction.upper)], name)
        harmless = (correction.lower <= 0).all() and self._only_rectified(tensor)
        if not (np.isneginf(correction.lower).all() or harmless):
            current = self.block.node("Max", [current, self._values(tensor, "lower", correction.lower)], name)
        self.renamed[tensor] = current

    def _values(self, tensor: str, part: str, values: NDArray[np.float32]) -> str:
        constant = self.block.constant(f"{tensor}_{part}", in_type(values, float_type(self.model, tensor)))
        if self.row is None:
            return constant
        return self.block.node("Gather", [constant, self.row], f"{tensor}_{part}_rows", axis=0)

    def _check(self, correction: Realignment) -> None:
        for part in ("scale", "shift", "upper", "lower"):
            shape, wanted = getattr(correction, part).shape, (self.targets, *correction.scale.shape[1:])
            if shape != wanted:
                raise InputError(f"the {part} of {correction.tensor!r} has shape {shape}, {wanted} expected")
            check_values(getattr(correction, part)[:1], self.model, correction.tensor, f"the {part}")

    def _only_rectified(self, tensor: str) -> bool:
        graph = self.model.proto.graph
        readers = [node for node in graph.node if tensor in reads(node)]
        return all(node.op_type == "Relu" for node in readers) and tensor not in {item.name for item in graph.output}


@dataclass(frozen=True)
class _Map:
    """Scale and shift that a node takes in for a correction, bounds brought to 0 and 1 where both are finite."""

    correction: Realignment | None

    @property
    def to_unit(self) -> bool:
        item = self.correction
        return item is not None and bool(np.isfinite(item.upper).all() and np.isfinite(item.lower).all())

    @property
    def span(self) -> NDArray[np.float32]:
        if self.correction is None:
            raise ValueError("no correction, no bounds")
        span: NDArray[np.float32] = np.maximum(self.correction.upper - self.correction.lower, _SMALLEST_SPAN)
        return span.ravel()

    def parts(self, channels: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if self.correction is None:
            return np.ones(channels), np.zeros(channels)
        if self.correction.scale.size != channels:
            name, shape = self.correction.tensor, self.correction.scale.shape
            raise InputError(f"{channels} channels expected at {name!r}, found shape {shape}; the patch does not fit")
        scale, shift = (
            self.correction.scale.ravel().astype(np.float64),
            self.correction.shift.ravel().astype(np.float64),
        )
        if not self.to_unit:
            return scale, shift
        return scale / self.span, (shift - self.correction.lower.ravel()) / self.span


def _needed(graph: onnx.GraphProto) -> set[str]:
    """Tensors that lead to an output."""
    needed = {item.name for item in graph.output}
    for node in reversed(graph.node):
        if any(name in needed for name in node.output):
            needed.update(reads(node))
    return needed
