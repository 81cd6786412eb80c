# SPDX-License-Identifier: Apache-2.0
"""Files made to break a reader: each function writes one and returns its path."""

from __future__ import annotations

import io
import itertools
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx.external_data_helper import set_external_data

from tests.tiny_models import residual_model

Maker = Callable[[Path], Path]


def _saved(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "hostile.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def external_data(location: str) -> Maker:
    """A weight in a file outside of the model's folder."""

    def make(folder: Path) -> Path:
        model = residual_model()
        tensor = model.graph.initializer[0]
        set_external_data(tensor, location, offset=0, length=len(tensor.raw_data))
        tensor.ClearField("raw_data")
        return _saved(model, folder)

    return make


def external_link(folder: Path) -> Path:
    """A weight behind a symbolic link that leads out of the model's folder."""
    secret = folder.parent / f"{folder.name}-secret"
    secret.write_bytes(bytes(4096))
    (folder / "weights.data").symlink_to(secret)
    return external_data("weights.data")(folder)


def huge_tensor(folder: Path) -> Path:
    """A weight that claims 2^40 elements and holds none."""
    model = residual_model()
    model.graph.initializer[0].dims[:] = [1 << 20, 1 << 20]
    model.graph.initializer[0].ClearField("raw_data")
    return _saved(model, folder)


def huge_fill(folder: Path) -> Path:
    """A node that would make 2^40 elements at run time."""
    model = residual_model()
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [1 << 20, 1 << 20])
    model.graph.initializer.append(shape)
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["shape"], ["filled"]))
    model.graph.node.insert(1, helper.make_node("ReduceSum", ["filled"], ["sum_of_all"], keepdims=0))
    model.graph.node.append(helper.make_node("Add", ["logits", "sum_of_all"], ["scores"]))
    model.graph.output[0].name = "scores"
    return _saved(model, folder)


def cycle(folder: Path) -> Path:
    """Two nodes that read each other."""
    model = residual_model()
    model.graph.node[1].input[0] = "c2"
    return _saved(model, folder)


def self_loop(folder: Path) -> Path:
    """A node that reads itself."""
    model = residual_model()
    model.graph.node[1].input[0] = model.graph.node[1].output[0]
    return _saved(model, folder)


def long_chain(folder: Path) -> Path:
    """A sound classifier with 100 000 nodes between the image and the network."""
    model = residual_model()
    names = ["image", *(f"t{index}" for index in range(100_000))]
    nodes = [helper.make_node("Neg", [before], [after]) for before, after in itertools.pairwise(names)]
    rest = list(model.graph.node)
    rest[0].input[0] = names[-1]
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
    return _saved(model, folder)


def many_nodes(folder: Path) -> Path:
    """A graph of 100 000 nodes that ends nowhere."""
    model = residual_model()
    nodes = [
        helper.make_node("Neg", [f"t{index}" if index else "image"], [f"t{index + 1}"]) for index in range(100_000)
    ]
    model.graph.node.extend(nodes)
    model.graph.output[0].name = "absent"
    return _saved(model, folder)


def deep_if(levels: int) -> Maker:
    """`If` nodes in `If` nodes; protobuf reads about 30 levels, so the bytes are put together by hand."""

    def make(folder: Path) -> Path:
        leaf = helper.make_graph([helper.make_node("Identity", ["flag"], ["value"])], "leaf", [], [_flag("value")])
        frame = onnx.GraphProto(name="branch", output=[_flag("value")])
        other = onnx.AttributeProto(name="else_branch", type=onnx.AttributeProto.GRAPH, g=leaf)
        inner = leaf.SerializeToString()
        for _ in range(levels):
            then = onnx.AttributeProto(name="then_branch", type=onnx.AttributeProto.GRAPH).SerializeToString()
            node = onnx.NodeProto(op_type="If", input=["flag"], output=["value"], attribute=[other]).SerializeToString()
            node += _field(5, then + _field(6, inner))
            inner = frame.SerializeToString() + _field(1, node)
        model = residual_model()
        model.graph.initializer.append(helper.make_tensor("flag", TensorProto.BOOL, [], [True]))
        # A repeated field in the bytes is merged into the graph that is already there.
        body = model.SerializeToString() + _field(7, _field(1, node))
        return _written(folder / "hostile.onnx", body)

    return make


def nested_functions(folder: Path) -> Path:
    """Thirty functions, each of which calls the next one twice: a billion nodes once they are written out."""
    model = residual_model()
    model.opset_import.append(helper.make_opsetid("local", 1))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    for level in range(30):
        called = ("Identity", "") if level == 29 else (f"f{level + 1}", "local")
        nodes = [helper.make_node(called[0], [a], [b], domain=called[1]) for a, b in (("x", "y"), ("y", "z"))]
        model.functions.append(helper.make_function("local", f"f{level}", ["x"], ["z"], nodes, opsets))
    model.graph.node.append(helper.make_node("f0", ["logits"], ["scores"], domain="local"))
    model.graph.output[0].name = "scores"
    return _saved(model, folder)


def recursive_function(folder: Path) -> Path:
    """A function that calls itself."""
    nested_functions(folder)
    model = onnx.load(folder / "hostile.onnx")
    model.functions[-1].node[0].op_type, model.functions[-1].node[0].domain = "f0", "local"
    return _saved(model, folder)


def weights_of(value: float) -> Maker:
    """A weight that is not finite."""

    def make(folder: Path) -> Path:
        model = residual_model()
        tensor = model.graph.initializer[0]
        values = np.frombuffer(tensor.raw_data, np.float32).copy()
        values[0] = value
        tensor.raw_data = values.tobytes()
        return _saved(model, folder)

    return make


def text_that_is_no_text(folder: Path) -> Path:
    """A tensor name of bytes that are no UTF-8."""
    content = residual_model().SerializeToString().replace(b"logits", b"\xff\xfe\xff\xfe\xff\xfe")
    (folder / "hostile.onnx").write_bytes(content)
    return folder / "hostile.onnx"


MODELS: dict[str, Maker] = {
    "external data above the folder": external_data("../../../../etc/passwd"),
    "external data at an absolute path": external_data("/etc/passwd"),
    "external data behind a link": external_link,
    "2^40 elements in a weight": huge_tensor,
    "2^40 elements at run time": huge_fill,
    "cycle": cycle,
    "self loop": self_loop,
    "100 000 nodes": many_nodes,
    "100 000 sound nodes": long_chain,
    "a billion nodes in functions": nested_functions,
    "a function that calls itself": recursive_function,
    "If in If, 1000 levels": deep_if(1000),
    "NaN weight": weights_of(float("nan")),
    "infinite weight": weights_of(float("inf")),
    "name that is no text": text_that_is_no_text,
    "empty": lambda folder: _written(folder / "hostile.onnx", b""),
    "random bytes": lambda folder: _written(folder / "hostile.onnx", np.random.default_rng(0).bytes(4096)),
    "folder": lambda folder: _folder(folder / "hostile.onnx"),
}


class _Bomb:
    """Runs a command where somebody unpickles it."""

    def __reduce__(self) -> tuple[object, ...]:
        import os

        return (os.mkdir, ("pickle-was-executed",))


def pickled(folder: Path) -> Path:
    """An .npz whose arrays are pickles that make a folder when loaded."""
    with zipfile.ZipFile(folder / "hostile.npz", "w") as archive:
        for name in ("images", "labels"):
            header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
            header += b" " * (63 - (len(header) + 10) % 64) + b"\n"
            content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + pickle.dumps([_Bomb()])
            archive.writestr(f"{name}.npy", content)
    return folder / "hostile.npz"


def zip_slip(folder: Path) -> Path:
    """An .npz with members that would land outside of the folder."""
    with zipfile.ZipFile(folder / "hostile.npz", "w") as archive:
        for name in ("../../slipped.npy", "/tmp/slipped.npy", "images.npy/../../slipped.npy"):
            archive.writestr(name, _npy(np.zeros((2, 8, 8, 3), np.uint8)))
    return folder / "hostile.npz"


def bomb(folder: Path) -> Path:
    """An .npz of a few KiB that claims 64 GiB of images."""
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1048576, 256, 256, 1), }"
    header += b" " * (63 - (len(header) + 10) % 64) + b"\n"
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(1 << 20)
    with zipfile.ZipFile(folder / "hostile.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", content)
        archive.writestr("labels.npy", _npy(np.zeros(1048576, np.int64)))
    return folder / "hostile.npz"


def infinite_pixels(folder: Path) -> Path:
    """Images that are not finite."""
    np.savez(folder / "hostile.npz", images=np.full((4, 8, 8, 3), np.inf, np.float32), labels=np.arange(4))
    return folder / "hostile.npz"


DATA: dict[str, Maker] = {
    "pickled arrays": pickled,
    "zip slip": zip_slip,
    "decompression bomb": bomb,
    "infinite pixels": infinite_pixels,
    "not a zip": lambda folder: _written(folder / "hostile.npz", b"PK\x03\x04 but no more"),
}


def picture_bomb(folder: Path) -> Path:
    """An ImageFolder with a PNG of a few KiB that claims 60 000 x 60 000 pixels."""
    rows = zlib.compress(bytes(1 << 16))
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")):
        content += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    for name in ("0", "1"):
        (folder / "images" / name).mkdir(parents=True)
        (folder / "images" / name / "a.png").write_bytes(content)
    return folder / "images"


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field of a protobuf message."""
    length, rest = b"", len(content)
    while rest > 127:
        length, rest = length + bytes([rest & 127 | 128]), rest >> 7
    return bytes([number << 3 | 2]) + length + bytes([rest]) + content


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _flag(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.BOOL, [])


def _leaf() -> onnx.GraphProto:
    return helper.make_graph([helper.make_node("Identity", ["flag"], ["value"])], "leaf", [], [_flag("value")])
