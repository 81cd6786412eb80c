# SPDX-License-Identifier: Apache-2.0
"""The classifier under treatment: read, checked, run once, and described.

``read_model`` accepts what exporters write (opset 7 to 26; weights inline or beside the file;
initializers that are listed as graph inputs; symbolic or fixed batch; no inferred shapes; see also
`patcher.model.intake`) and refuses everything that is no classifier, with the reason and what to do about it.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx

from patcher.errors import InputError
from patcher.model.check import check_conversion, check_run, check_structure, observed_types
from patcher.model.external import refuse_external_data
from patcher.model.file import load_file, loadable, parse, serialize, write_model
from patcher.model.inference import fill_open_shapes, infer_types
from patcher.model.inputs import InputKind, Layout, TensorType, find_inputs, unpack, with_fixed_sides
from patcher.model.intake import convert_opset, standardize
from patcher.model.interface import graph_outputs
from patcher.model.scores import Head, find_scores

__all__ = ["Head", "Layout", "Model", "TensorType", "read_model", "write_model"]


@dataclass(frozen=True)
class Model:
    """An ONNX classifier.

    Attributes:
        proto: The model in standard form with all weights inline. Nobody modifies it.
        sha256: Hash of the file's bytes, followed by those of its external data files.
        path: Where it was read from; ``None`` for a model given in memory.
        input: The image input, or the first of several.
        inputs: All inputs, in graph order.
        row_shapes: Shape of one row of each input; where the graph leaves a length open, one that runs.
        outputs: All graph outputs in order.
        logits: Name of the output with the class scores, ``(N, num_classes)``.
        head: What the scores are: ``logits``, or ``softmax``, ``log_softmax``, ``sigmoid`` of them.
        num_classes: Number of classes.
        opset: Version of the standard operator set.
        layout: ``NCHW`` or ``NHWC`` of a picture, else ``array``.
        channels: Channels of the image input: 1, 3 or 4; 0 for arrays.
        image_size: (height, width); ``None`` where the graph leaves either open, and for arrays.
        batch: The fixed batch size, or ``None`` for any.
        shapes: Shape of every tensor that could be inferred, batch axis first; ``None`` for an open length.
        elem_types: ``onnx.TensorProto`` element type of every tensor that could be inferred.
        changes: What `patcher.model.intake` changed in memory, one line each.
        single_score: Whether there is one score an image: the probability of class 1 of two.
        other_scores: Further outputs that could hold class scores; only their agreement with the original is measured.
    """

    proto: onnx.ModelProto = field(repr=False)
    sha256: str
    path: Path | None
    input: TensorType
    inputs: tuple[TensorType, ...]
    row_shapes: tuple[tuple[int, ...], ...]
    outputs: tuple[TensorType, ...]
    logits: str
    head: Head
    num_classes: int
    opset: int
    layout: Layout
    channels: int
    image_size: tuple[int, int] | None
    batch: int | None
    shapes: Mapping[str, tuple[int | None, ...]] = field(repr=False)
    elem_types: Mapping[str, int] = field(repr=False)
    changes: tuple[str, ...] = ()
    single_score: bool = False
    other_scores: tuple[str, ...] = ()

    def sized(self, side: int) -> tuple[int, int]:
        """Height and width of images, `side` where the graph leaves them open."""
        return with_fixed_sides(self.input.shape, self.layout, (side, side))

    @property
    def is_picture(self) -> bool:
        """Whether it takes one picture a row."""
        return self.layout != "array"

    @property
    def kind(self) -> InputKind:
        """What it takes: a picture, token ids (with masks), or other arrays."""
        if self.is_picture:
            return "picture"
        return "tokens" if self.input.is_integer and len(self.input.shape) == 2 else "array"

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of all inputs."""
        return tuple(tensor.name for tensor in self.inputs)

    @property
    def carried_shape(self) -> tuple[int, ...]:
        """Shape of a row as it travels; see `patcher.model.inputs`."""
        first, *others = self.row_shapes
        if not others:
            return first
        if set(others) == {first}:
            return (len(self.inputs), *first)
        return (sum(math.prod(shape) for shape in self.row_shapes),)

    @property
    def channel_axis(self) -> int:
        """Axis of the channels in the inputs."""
        return 3 if self.layout == "NHWC" else 1

    def feed(self, rows: Any) -> dict[str, Any]:
        """A batch by input name.

        Args:
            rows: ``(N, ...)``, NumPy array or torch tensor: the input itself, or several as one array (see
                `patcher.model.inputs`).
        """
        if len(self.inputs) == 1:
            return {self.input.name: rows}
        parts = unpack(rows, self.row_shapes)
        if isinstance(rows, np.ndarray):
            parts = [np.ascontiguousarray(part, item.dtype) for item, part in zip(self.inputs, parts, strict=True)]
        return dict(zip(self.input_names, parts, strict=True))

    @property
    def quantized(self) -> bool:
        """Whether activations are rounded to integer steps anywhere in the main graph."""
        return any(node.op_type == "QuantizeLinear" for node in self.proto.graph.node)


def read_model(source: str | os.PathLike[str] | bytes | onnx.ModelProto, *, scores: str | None = None) -> Model:
    """Read a classifier, check it and run it once.

    Args:
        source: Path of a model file, its bytes, or a ``ModelProto``, which is copied.
        scores: The output that holds the class scores; ``None`` for the one that `patcher.model.scores` finds.

    Returns:
        The model and what was found out about it.

    Raises:
        InputError: The source is no valid ONNX model, or no classifier.
        UnsupportedGraphError: The graph holds operators that this project or ONNX Runtime cannot run.
    """
    proto, sha256, path = _load(source)
    try:
        return _describe(proto, sha256, path, scores)
    except UnicodeDecodeError as error:
        # protobuf checks text when it is read, not when the file is parsed.
        raise InputError(f"{path or 'model'}: not a valid ONNX model: a name in it is no UTF-8 text") from error


def _describe(proto: onnx.ModelProto, sha256: str, path: Path | None, wanted: str | None) -> Model:
    name = str(path) if path else "model"
    changes = standardize(proto, name)
    original = proto
    proto, converted = convert_opset(original, name)
    with loadable(proto) as source:
        opset = check_structure(proto, source, name)
        types = infer_types(proto, name)
        found = find_inputs(proto, name)
        score_shapes, ran = check_run(source, found, name)
    if converted:
        check_conversion(original, proto, found, name)
    names = [tensor.name for tensor in found.tensors]
    types = fill_open_shapes(types, proto, [dict(zip(names, shapes, strict=True)) for shapes in found.probes()])
    types = observed_types(proto, found, types)
    scores = find_scores(proto, types, score_shapes, ran[0][0], name, wanted)
    return Model(
        proto=proto,
        sha256=sha256,
        path=path,
        input=found.tensors[0],
        inputs=found.tensors,
        row_shapes=tuple(shape[1:] for shape in ran),
        outputs=graph_outputs(proto),
        logits=scores.tensor,
        head=scores.head,
        num_classes=scores.num_classes,
        opset=opset,
        layout=found.layout,
        channels=found.channels,
        image_size=found.size,
        batch=found.batch,
        shapes=MappingProxyType(types.shapes),
        elem_types=MappingProxyType(types.elem_types),
        changes=(*changes, converted) if converted else changes,
        single_score=scores.single,
        other_scores=scores.others,
    )


def _load(source: str | os.PathLike[str] | bytes | onnx.ModelProto) -> tuple[onnx.ModelProto, str, Path | None]:
    if isinstance(source, bytes):
        proto = parse(source, "model")
        refuse_external_data(proto)
        return proto, hashlib.sha256(source).hexdigest(), None
    if isinstance(source, onnx.ModelProto):
        refuse_external_data(source)
        proto = onnx.ModelProto()
        proto.CopyFrom(source)
        return proto, hashlib.sha256(serialize(proto)).hexdigest(), None
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        return (*load_file(path), path)
    raise InputError(f"a path, bytes or onnx.ModelProto was expected, found {type(source).__name__}")
