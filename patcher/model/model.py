# SPDX-License-Identifier: Apache-2.0
"""The classifier under treatment: read, checked, run once, and described.

``read_model`` accepts what exporters write (opset 7 to 26; weights inline or beside the file;
initializers that are listed as graph inputs; symbolic or fixed batch; no inferred shapes; see also
`patcher.model.intake`) and refuses everything that is no single-input image classifier, with the reason and
what to do about it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import onnx

from patcher.errors import InputError
from patcher.model.check import check_conversion, check_run, check_structure, observed_types
from patcher.model.external import refuse_external_data
from patcher.model.file import load_file, loadable, parse, serialize, write_model
from patcher.model.inference import fill_open_shapes, infer_types
from patcher.model.intake import convert_opset, standardize
from patcher.model.interface import (
    Layout,
    TensorType,
    find_image_input,
    graph_outputs,
    probe_shapes,
    with_fixed_sides,
)
from patcher.model.scores import Head, find_scores

__all__ = ["Head", "Layout", "Model", "TensorType", "read_model", "write_model"]


@dataclass(frozen=True)
class Model:
    """An ONNX image classifier.

    Attributes:
        proto: The model in standard form with all weights inline. Nobody modifies it.
        sha256: Hash of the file's bytes, followed by those of its external data files.
        path: Where it was read from; ``None`` for a model given in memory.
        input: The image input.
        outputs: All graph outputs in order.
        logits: Name of the output with the class scores, ``(N, num_classes)``.
        head: What the scores are: ``logits``, or ``softmax``, ``log_softmax``, ``sigmoid`` of them.
        num_classes: Number of classes.
        opset: Version of the standard operator set.
        layout: ``NCHW`` or ``NHWC``.
        channels: Channels of the image input: 1, 3 or 4.
        image_size: (height, width); ``None`` where the graph leaves either open.
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
    def quantized(self) -> bool:
        """Whether activations are rounded to integer steps anywhere in the main graph."""
        return any(node.op_type == "QuantizeLinear" for node in self.proto.graph.node)


def read_model(source: str | os.PathLike[str] | bytes | onnx.ModelProto, *, scores: str | None = None) -> Model:
    """Read an image classifier, check it and run it once.

    Args:
        source: Path of a model file, its bytes, or a ``ModelProto``, which is copied.
        scores: The output that holds the class scores; ``None`` for the one that `patcher.model.scores` finds.

    Returns:
        The model and what was found out about it.

    Raises:
        InputError: The source is no valid ONNX model, or no image classifier.
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
        image = find_image_input(proto, name)
        score_shapes = check_run(source, image, name)
    if converted:
        check_conversion(original, proto, image, name)
    types = fill_open_shapes(types, proto, image.tensor.name, probe_shapes(image))
    types = observed_types(proto, image, types)
    scores = find_scores(proto, types, score_shapes, image.batch or 1, name, wanted)
    return Model(
        proto=proto,
        sha256=sha256,
        path=path,
        input=image.tensor,
        outputs=graph_outputs(proto),
        logits=scores.tensor,
        head=scores.head,
        num_classes=scores.num_classes,
        opset=opset,
        layout=image.layout,
        channels=image.channels,
        image_size=image.size,
        batch=image.batch,
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
