# SPDX-License-Identifier: Apache-2.0
"""Sound files of every kind that the commands read, and ways to damage them."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from patcher.model.subgraphs import walk

_AWKWARD = (b"\0", b"\xff", b"\x7f", b"\x80", b"\xff\xff\xff\xff\x0f", b"\xff" * 9 + b"\x01", b"../", b"nan", b"1e999")
_DIMENSIONS = (-1, 0, 1 << 20, 1 << 40, (1 << 63) - 1)
_TEXTS = ("", "{}", "[]", "[1, 2, 3]", "[-1]", "null", "1e999", "[" * 5000, '{"a": NaN}', "unit+nft", "bna", "folded")
_OPERATORS = (
    "If",
    "Loop",
    "Conv",
    "Reshape",
    "Resize",
    "Clip",
    "Nothing",
    "Split",
    "Pad",
    "Min",
    "Mul",
    "Cast",
    "Gather",
)


def sound_model() -> bytes:
    """A small classifier with a residual sum and a local function."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (4, 3, 3, 3), "b1": (4,), "w2": (4, 4, 3, 3), "fc": (3, 4)}
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c2", "r1"], ["s"]),
        helper.make_node("Relu", ["s"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "fc"], ["logits"], transB=1),
    ]
    weights = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name) for name, shape in shapes.items()
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 8, 8])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])
    graph = helper.make_graph(nodes, "sound", [image], [logits], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content


def sound_images() -> bytes:
    """Forty images with labels."""
    buffer = io.BytesIO()
    rng = np.random.default_rng(0)
    np.savez_compressed(buffer, images=rng.integers(0, 256, (40, 8, 8, 3)).astype(np.uint8), labels=np.arange(40) % 3)
    return buffer.getvalue()


def sound_picture() -> bytes:
    """A PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)).save(buffer, "png")
    return buffer.getvalue()


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Bytes with one to four faults."""
    found = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        if not found:
            break
        start = int(rng.integers(0, len(found)))
        length = int(rng.integers(1, 17))
        fault = int(rng.integers(0, 6))
        if fault == 0:
            found[start] ^= 1 << int(rng.integers(0, 8))
        elif fault == 1:
            found[start : start + length] = rng.bytes(length)
        elif fault == 2:
            del found[start : start + length]
        elif fault == 3:
            found[start:start] = found[start : start + length] * int(rng.integers(1, 9))
        elif fault == 4:
            awkward = _AWKWARD[int(rng.integers(0, len(_AWKWARD)))]
            found[start : start + len(awkward)] = awkward
        else:
            found = found[: max(1, start)] if rng.random() < 0.3 else found
    return bytes(found)


def damaged_archive(content: bytes, rng: np.random.Generator) -> bytes:
    """An .npz that is a sound archive of damaged arrays: the checksums hold."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            member = source.read(entry)
            # The header says type and shape; it is where a reader can be misled.
            header = damaged(member[:128], rng) if rng.random() < 0.6 else member[:128]
            # A name alone would be stamped with the time of day.
            target.writestr(zipfile.ZipInfo(entry.filename), header + member[128:], zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def damaged_graph(content: bytes, rng: np.random.Generator) -> bytes:
    """A model that still parses, with one to three faults in its graph."""
    model = onnx.ModelProto.FromString(content)
    graph = model.graph
    for _ in range(int(rng.integers(1, 4))):
        nodes = list(walk(graph.node))
        node = nodes[int(rng.integers(0, len(nodes)))]
        tensor = graph.initializer[int(rng.integers(0, len(graph.initializer)))]
        fault = int(rng.integers(0, 10))
        if fault == 0 and len(tensor.dims):
            tensor.dims[int(rng.integers(0, len(tensor.dims)))] = int(
                rng.choice([-1, 0, 1 << 20, 1 << 40, (1 << 63) - 1])
            )
        elif fault == 1:
            tensor.data_type = int(rng.integers(0, 30))
        elif fault == 2 and len(node.input):
            node.input[int(rng.integers(0, len(node.input)))] = str(rng.choice(["", "r2", "logits", "absent", "image"]))
        elif fault == 3:
            node.op_type = str(rng.choice(_OPERATORS))
        elif fault == 4:
            del node.output[:]
        elif fault == 5:
            values = rng.integers(-(1 << 62), 1 << 62, 4)
            node.attribute.append(
                helper.make_attribute(str(rng.choice(["pads", "strides", "axis", "group"])), values.tolist())
            )
        elif fault == 6:
            model.opset_import[0].version = int(rng.integers(-5, 60))
        elif fault == 7:
            shape = graph.input[0].type.tensor_type.shape.dim
            shape[int(rng.integers(0, 4))].dim_value = int(rng.choice([-1, 0, 1, 7, 1 << 31, 1 << 40]))
        elif fault == 8 and len(model.metadata_props):
            entry = model.metadata_props[int(rng.integers(0, len(model.metadata_props)))]
            entry.value = str(rng.choice(_TEXTS)) if rng.random() < 0.5 else entry.value[: int(rng.integers(0, 40))]
        else:
            tensor.raw_data = tensor.raw_data[: int(rng.integers(0, len(tensor.raw_data) + 1))] + rng.bytes(4)
    result: bytes = model.SerializeToString()
    return result
