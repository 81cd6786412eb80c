# SPDX-License-Identifier: Apache-2.0
"""Read the corrections out of a hardened graph: the inverse of `patcher.export.apply`.

Each edit leaves its values in the graph, under names made from the tensor's own and behind the operator that
made it. The readers walk from a tensor of the original back to its operator and name what they meet:

    Conv ─▶ x_unscaled ─▶ Mul ─▶ Add ─▶ x_unbounded ─▶ Min ─▶ x          Affine, then UpperBound

They decide nothing. A graph that an attacker wrote may say anything; whoever reads corrections applies them to
the original again and compares the bytes. What is read wrongly, or left unread, then does not match.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from patcher.errors import InputError
from patcher.export.apply import CORRECTIONS_KEY, first_pass
from patcher.export.bake import baked_form
from patcher.export.reading.graph import ReadGraph, called
from patcher.export.reading.masks import channel_mask, scaled_shift
from patcher.export.reading.second_pass import read_branch, read_guard, read_targets
from patcher.graph.flow import DataFlow, attribute, is_standard
from patcher.model.model import Model
from patcher.patch import (
    Affine,
    Bias,
    Branch,
    Correction,
    MeanBound,
    Normalization,
    Patch,
    UpperBound,
    WeightMask,
    Weights,
    parse_patch,
)
from patcher.two_files import FLAG_KEY

_BIAS_INPUT = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2, "BatchNormalization": 2}


def read_corrections(
    model: Model, hardened: onnx.ModelProto, order: Sequence[frozenset[str]] = ()
) -> tuple[Correction, ...]:
    """The corrections that make `hardened` out of a model, if it was made by `patcher.export.apply`.

    Args:
        model: The model before.
        hardened: The model after; not believed, not modified.
        order: Kinds of correction by name, for a stack of methods one set a method: those of the first come
            first. Within one, corrections come in graph order. Without any, every kind is looked for.

    Returns:
        What could be read; nothing is promised of it.
    """
    if baked_form(hardened) == "folded" or any(entry.key == FLAG_KEY for entry in hardened.metadata_props):
        return _carried(hardened)
    rank = {name: index for index, kinds in reversed([*enumerate(order)]) for name in kinds}
    # Other values of a weight may happen to be a masked weight's.
    masks = not order or any(WeightMask.__name__ in kinds for kinds in order)
    # One method makes all of its corrections in graph order, of whatever kind.
    first = sorted(
        _Reader(model, hardened, masks=masks).read(), key=lambda item: rank.get(type(item).__name__, len(order))
    )
    if (targets := read_targets(hardened)) is None:
        return tuple(first)
    return *first, read_branch(first_pass(model, _unsigned(model, first)), hardened, targets)


def read_second_file(model: Model, guard: onnx.ModelProto, corrections: Sequence[Correction]) -> tuple[Correction, ...]:
    """The corrections that `read_corrections` found, with those of a second pass that a file of its own holds."""
    first = first_pass(model, _unsigned(model, corrections))
    return tuple(read_guard(first, guard, item) if isinstance(item, Branch) else item for item in corrections)


def _unsigned(model: Model, corrections: Sequence[Correction]) -> Patch:
    return Patch("read", model.sha256, tuple(corrections))


def _carried(hardened: onnx.ModelProto) -> tuple[Correction, ...]:
    """Corrections that a file carries as metadata: folding rounds bounds away, a flag has values of its own."""
    text = next((entry.value for entry in hardened.metadata_props if entry.key == CORRECTIONS_KEY), "")
    try:
        patch: Patch = parse_patch(base64.b64decode(text, validate=True), CORRECTIONS_KEY)
    except (InputError, binascii.Error, ValueError):
        return ()
    return patch.corrections


class _Reader:
    """The main graphs before and after.

    Args:
        model: The model before.
        hardened: The model after.
        masks: Whether a weight's other values are read as a masked weight's where they can be.
    """

    def __init__(self, model: Model, hardened: onnx.ModelProto, *, masks: bool) -> None:
        self.model, self.graph, self.masks = model, model.proto.graph, masks
        self.after = ReadGraph(hardened.graph.node, hardened.graph.initializer)
        self.before = ReadGraph(self.graph.node, self.graph.initializer)
        self.flow = DataFlow(self.graph, model.input_names)
        self.outputs = {value.name for value in self.graph.output}
        self.masked: set[str] = set()

    def read(self) -> Iterator[Correction]:
        """Corrections in graph order; at one operator its weights first, then its output."""
        for node in self.graph.node:
            for output in node.output:
                behind, origin = self._walk(output, node)
                if origin is not None:
                    yield from self._weights(node, origin)
                    yield from self._own(node, origin)
                yield from behind
        yield from self._values()

    def _walk(self, tensor: str, original: onnx.NodeProto) -> tuple[list[Correction], onnx.NodeProto | None]:
        """What stands between a tensor and the operator that made it, and that operator in the hardened graph."""
        found: list[Correction] = []
        # With a branch the outputs of the original move to another name.
        moved = f"{tensor}_original"
        current = next((name for name in self.after.producers if called(name, moved)), tensor)
        current = current if tensor in self.outputs and current != tensor else tensor
        for _ in range(len(self.after.nodes)):
            node = self.after.producers.get(current)
            if node is None:
                return found, None
            # A model that was hardened before has such operators of its own.
            own = (node.op_type, node.name, *node.input) == (original.op_type, original.name, *original.input)
            step = None if own else self._behind(tensor, node)
            if step is None:
                return found, node if node.op_type == original.op_type else None
            current, correction = step
            found.insert(0, correction)
        return found, None

    def _behind(self, tensor: str, node: onnx.NodeProto) -> tuple[str, Correction] | None:
        """One correction that ends in `node`, and the tensor before it."""
        if is_standard(node, "Cast") and called(node.input[0], f"{tensor}_bounded", f"{tensor}_mapped"):
            inner = self.after.producers.get(node.input[0])
            step = self._behind(tensor, inner) if inner is not None else None
            wide = self.after.producers.get(step[0]) if step is not None else None
            return (wide.input[0], step[1]) if step and wide is not None and is_standard(wide, "Cast") else None
        if is_standard(node, "Min", "Clip") and called(node.input[0], f"{tensor}_unbounded", f"{tensor}_float"):
            bound = self.after.floats(node.input[-1])
            return None if bound is None else (node.input[0], UpperBound(tensor, bound))
        if is_standard(node, "Mul") and called(node.input[0], f"{tensor}_unlimited"):
            quotient = self.after.producers.get(node.input[-1])
            bound = self.after.floats(quotient.input[0]) if quotient is not None and quotient.input else None
            return None if bound is None else (node.input[0], MeanBound(tensor, bound))
        if not is_standard(node, "Add") or len(node.input) != 2:
            return None
        shift = self.after.floats(node.input[1])
        if shift is not None and called(node.input[0], f"{tensor}_unshifted"):
            return node.input[0], Bias(tensor, shift)
        scaled = self.after.producers.get(node.input[0])
        if shift is None or scaled is None or not called(node.input[0], f"{tensor}_scaled"):
            return None
        scale = self.after.floats(scaled.input[1]) if len(scaled.input) == 2 else None
        return None if scale is None else (scaled.input[0], Affine(tensor, scale, shift))

    def _weights(self, node: onnx.NodeProto, origin: onnx.NodeProto) -> Iterator[WeightMask]:
        """Masks on what an operator reads."""
        for old, new in zip(node.input, origin.input, strict=False):
            if not old or old in self.masked or not self.flow.is_constant(old):
                continue
            mask = self._mask(old, new)
            if mask is not None:
                self.masked.add(old)
                yield mask

    def _mask(self, old: str, new: str) -> WeightMask | None:
        product = self.after.producers.get(new)
        if product is not None and called(new, f"{old}_masked") and is_standard(product, "Mul"):
            mask = self.after.floats(product.input[-1])
            return None if mask is None else WeightMask(old, mask)
        if not self.masks or (new != old and not called(new, f"{old}_masked")):
            return None
        before, after = self.flow.value(old), self.after.value(new)
        if before is None or after is None or before.shape != after.shape or before.tobytes() == after.tobytes():
            return None
        found = channel_mask(before, after)
        return None if found is None else WeightMask(old, found, "weights")

    def _own(self, node: onnx.NodeProto, origin: onnx.NodeProto) -> Iterator[Correction]:
        """What an operator's own constants say: new statistics, a shifted bias."""
        tensor = node.output[0]
        if node.op_type == "BatchNormalization" and len(origin.input) == 5:
            mean, var = (self.after.floats(name) for name in origin.input[3:])
            moved = called(origin.input[3], f"{tensor}_mean") and called(origin.input[4], f"{tensor}_var")
            if moved and mean is not None and var is not None:
                yield Normalization(tensor, mean, var)
        index = _BIAS_INPUT.get(node.op_type)
        if index is None or len(origin.input) <= index:
            return
        name = origin.input[index]
        if called(name, f"{tensor}_shifted_bias") and name in self.after.producers:
            name = self.after.producers[name].input[-1]
        shift = self.after.floats(name) if called(name, f"{tensor}_shift") else None
        if shift is not None:
            factor = float(attribute(origin, "beta", 1.0)) if node.op_type == "Gemm" else 1.0
            yield Bias(tensor, self._broadcast(tensor, scaled_shift(shift, factor)))

    def _broadcast(self, tensor: str, shift: NDArray[np.float32]) -> NDArray[np.float32]:
        """A vector a channel as the tensor's rank asks for it; the edit flattens it again."""
        rank = len(self.model.shapes.get(tensor, ()))
        axis = next((i for i, n in enumerate(self.model.shapes.get(tensor, ())) if i and n == shift.size), 1)
        return shift.reshape([shift.size if i == axis else 1 for i in range(rank)]) if rank else shift

    def _values(self) -> Iterator[Weights]:
        """Initializers with other values that no mask explains."""
        for tensor in self.graph.initializer:
            new = self.after.constants.get(tensor.name)
            alike = new is not None and new.dims == tensor.dims and new.data_type == tensor.data_type
            if not alike or tensor.name in self.masked:
                continue
            before, after = self.before.value(tensor.name), self.after.value(tensor.name)
            if after is not None and before is not None and before.tobytes() != after.tobytes():
                yield Weights(tensor.name, after.copy())
