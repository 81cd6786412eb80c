# SPDX-License-Identifier: Apache-2.0
"""Read a second pass: targets, form, and what is different in it (`patcher.export.branch`).

Scale and shift may stand in the graph as they are, or in the constants of a Conv or a BatchNormalization, together
with the bounds. A rounded quotient gives its numerator back as the nearest number, or one beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from patcher.export.reading.graph import ReadGraph, called
from patcher.export.reading.masks import nearby
from patcher.graph.flow import is_standard
from patcher.model.model import Model
from patcher.patch import Branch, BranchForm, Realignment
from patcher.two_files import FLAG_OUTPUT, TARGETS_KEY

Floats = NDArray[np.float32]


def read_branch(model: Model, hardened: onnx.ModelProto, targets: tuple[int, ...]) -> Branch:
    """The second pass of a hardened model.

    The ``two-files`` form leaves no correction in this file; `read_guard` reads them in the other one.

    Args:
        model: What it is a second pass of: the model before, with the other corrections in place.
        hardened: The model after.
        targets: As `read_targets` found them.
    """
    names = [value.name for value in hardened.graph.output]
    kept = any(called(name, f"{model.logits}_original") for name in names[len(model.proto.graph.output) :])
    if not any(called(name, FLAG_OUTPUT) for name in names):
        return Branch(targets, (), "two-files", _asked_to_keep(hardened))
    form: BranchForm = "where"
    block = ReadGraph(hardened.graph.node, hardened.graph.initializer)
    for node in hardened.graph.node:
        then = next((item.g for item in node.attribute if item.name == "then_branch"), None)
        if then is not None and called(node.name, "second_pass_If"):
            form, block = "if", ReadGraph(then.node, then.initializer)
    return Branch(targets, tuple(_realignments(model, block, len(targets))), form, kept)


def read_guard(model: Model, guard: onnx.ModelProto, main: Branch) -> Branch:
    """The second pass that a guard model holds, for the branch of its main file."""
    block = ReadGraph(guard.graph.node, guard.graph.initializer)
    return Branch(
        main.targets, tuple(_realignments(model, block, len(main.targets))), "two-files", main.keep_original_output
    )


def _metadata(proto: onnx.ModelProto, key: str) -> Any:
    text = next((entry.value for entry in proto.metadata_props if entry.key == key), None)
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        return None


def read_targets(proto: onnx.ModelProto) -> tuple[int, ...] | None:
    """The target classes of a second pass; ``None`` for a model that has none."""
    found = _metadata(proto, TARGETS_KEY)
    if not isinstance(found, list) or not found or not all(type(item) is int for item in found):
        return None
    return tuple(found)


def _asked_to_keep(proto: onnx.ModelProto) -> bool:
    options = _metadata(proto, "patcher.options")
    return isinstance(options, dict) and options.get("keep_original_output") is True


def _realignments(model: Model, block: ReadGraph, targets: int) -> Iterator[Realignment]:
    for node in model.proto.graph.node:
        for output in node.output:
            copied = _copy_of(block, node, output)
            found = (
                _Corrected(model, block, node, output).read(copied, folded=targets == 1) if copied is not None else None
            )
            if found is not None:
                yield found


def _copy_of(block: ReadGraph, node: onnx.NodeProto, output: str) -> onnx.NodeProto | None:
    for name, copied in block.producers.items():
        if output and copied.op_type == node.op_type and called(name, f"{output}_second"):
            return copied
    return None


class _Corrected:
    """One tensor of the second pass: the constants of its operator, and the chain behind it."""

    def __init__(self, model: Model, block: ReadGraph, node: onnx.NodeProto, tensor: str) -> None:
        self.block, self.node, self.tensor = block, node, tensor
        self.constants = {item.name: item for item in model.proto.graph.initializer}
        rank = len(model.shapes.get(tensor, ())) or 4
        self.shape = (1, -1, *[1] * (rank - 2))
        self.parts: dict[str, Floats] = {}

    def read(self, copied: onnx.NodeProto, *, folded: bool) -> Realignment | None:
        """The correction; ``None`` where the copy is a plain one. Those of several targets are not folded."""
        position = next(i for i, name in enumerate(self.node.output) if name == self.tensor)
        self._chain(copied.output[position])
        if "scale" in self.parts and "shift" in self.parts:
            return self._realignment(self.parts["scale"], self.parts["shift"])
        span = self.parts.get("span")
        found = None
        if folded and is_standard(self.node, "Conv"):
            found = self._convolution(copied, span)
        elif folded and is_standard(self.node, "BatchNormalization"):
            found = self._normalization(copied, span)
        return None if found is None else self._realignment(*found)

    def _chain(self, current: str) -> None:
        """Follow the nodes behind the copy that correct it."""
        for node in self.block.nodes:
            if not node.input or node.input[0] != current or len(node.output) != 1:
                continue
            if not called(node.output[0], f"{self.tensor}_realigned", f"{self.tensor}_clipped"):
                continue
            part = {"Mul": "scale", "Add": "shift", "Min": "upper", "Max": "lower"}.get(node.op_type)
            if node.op_type == "BatchNormalization":
                self._keep("span", node.input[1])
                self._keep("lower", node.input[2])
            elif part is not None and len(node.input) == 2:
                self._keep(part, node.input[1])
            current = node.output[0]

    def _keep(self, part: str, name: str) -> None:
        rows = self.block.producers.get(name)
        # With several targets the rows of the stacked arrays are gathered first.
        source = rows.input[0] if rows is not None and rows.op_type == "Gather" else name
        value = self.block.floats(source)
        if value is not None:
            self.parts[part] = value

    def _realignment(self, scale: Floats, shift: Floats) -> Realignment:
        shape = scale.shape if scale.ndim > 1 else np.broadcast_to(scale, scale.shape).reshape(self.shape).shape
        upper = self.parts.get("upper", np.full(shape, np.inf, np.float32))
        lower = self.parts.get("lower", np.full(shape, -np.inf, np.float32))
        span = self.parts.get("span")
        if span is not None:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(self.constants[self.node.input[1]].data_type)
            upper = _nearest(
                lower.astype(np.float64) + span, lambda found: _same(np.maximum(found - lower, 1e-6), span, dtype)
            )
        return Realignment(self.tensor, *(part.reshape(shape) for part in (scale, shift, upper, lower)))

    def _convolution(self, copied: onnx.NodeProto, span: Floats | None) -> tuple[Floats, Floats] | None:
        """``scale / span`` is a factor of the weight, ``scale / span * b + (shift - lower) / span`` the bias."""
        product = self.block.producers.get(copied.input[1])
        factor = self.block.floats(product.input[1]) if product is not None and len(product.input) == 2 else None
        bias = self.block.floats(copied.input[2]) if len(copied.input) > 2 else None
        if factor is None or bias is None or not called(copied.input[2], f"{self.tensor}_bias"):
            return None
        before = self._original(self.node.input[2]) if len(self.node.input) > 2 and self.node.input[2] else None
        dtype = onnx.helper.tensor_dtype_to_np_dtype(self.constants[self.node.input[1]].data_type)
        return self._unfold(np.ones(factor.size), before, factor.ravel(), bias.ravel(), span, dtype)

    def _normalization(self, copied: onnx.NodeProto, span: Floats | None) -> tuple[Floats, Floats] | None:
        if not called(copied.input[1], f"{self.tensor}_statistic"):
            return None
        gamma, beta = (self.block.floats(name) for name in copied.input[1:3])
        old_gamma, old_beta = (self._original(name) for name in self.node.input[1:3])
        if gamma is None or beta is None or old_gamma is None or old_beta is None:
            return None
        dtype = onnx.helper.tensor_dtype_to_np_dtype(self.constants[self.node.input[1]].data_type)
        return self._unfold(old_gamma, old_beta, gamma, beta, span, dtype)

    def _original(self, name: str) -> NDArray[np.float64] | None:
        tensor = self.constants.get(name)
        return None if tensor is None else onnx.numpy_helper.to_array(tensor).astype(np.float64)

    def _unfold(
        self,
        weight: NDArray[np.float64],
        offset: NDArray[np.float64] | None,
        factor: Floats,
        bias: Floats,
        span: Floats | None,
        dtype: np.dtype[Any],
    ) -> tuple[Floats, Floats]:
        """Scale and shift so that ``scale / span * weight`` and ``scale / span * offset + ...`` are the file's."""
        width = np.ones(len(factor), np.float32) if span is None else span
        start = np.zeros(len(factor), np.float32) if span is None else self.parts["lower"].ravel()
        offset = np.zeros(len(factor)) if offset is None else offset
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            exact = np.where(weight != 0, factor.astype(np.float64) * width / weight, np.copysign(1.0, factor))
            quotient = exact.astype(np.float32)
            best = quotient, np.zeros_like(quotient)
            done = np.zeros(len(factor), bool)
            for scale in _candidates(quotient):
                slope = scale.astype(np.float64) / width
                middle = ((bias.astype(np.float64) - slope * offset) * width + start).astype(np.float32)
                for shift in _candidates(middle):
                    again = slope * offset + (shift.astype(np.float64) - start) / width
                    same = _same(slope * weight, factor, dtype) & _same(again, bias, dtype) & ~done
                    best = np.where(same, scale, best[0]), np.where(same, shift, best[1])
                    done |= same
        return best


def _candidates(values: Floats) -> list[Floats]:
    """The values, their neighbours, and both zeros, which are equal and not the same bytes."""
    zero = np.zeros_like(values)
    return [*nearby(values), zero, -zero]


def _same(values: NDArray[np.float64], wanted: Floats, dtype: np.dtype[Any]) -> NDArray[np.bool_]:
    found = values.astype(dtype).astype(np.float32)
    same: NDArray[np.bool_] = (found == wanted) & (np.signbit(found) == np.signbit(wanted))
    return same


def _nearest(centre: NDArray[np.float64], fits: Any) -> Floats:
    """The number nearest to a centre, or one beside it, that fits."""
    found = start = centre.astype(np.float32)
    for candidate in nearby(start):
        found = np.where(fits(found), found, candidate)
    return found
