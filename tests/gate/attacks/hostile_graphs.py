# SPDX-License-Identifier: Apache-2.0
"""Tools of an attacker: put something between the scores and the output, or between the image and the network."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

node = helper.make_node


def constant(model: onnx.ModelProto, name: str, value: object) -> str:
    """Add an initializer."""
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def rename(model: onnx.ModelProto, old: str, new: str) -> None:
    """Rename a tensor everywhere in the main graph."""
    for item in model.graph.node:
        for part in (item.input, item.output):
            for index, name in enumerate(part):
                if name == old:
                    part[index] = new


def behind_scores(model: onnx.ModelProto, *nodes: onnx.NodeProto) -> None:
    """Let the network write ``plain``; the nodes make ``logits`` of it."""
    for item in model.graph.node:
        for index, name in enumerate(item.output):
            if name == "logits":
                item.output[index] = "plain"
    model.graph.node.extend(nodes)


def before_image(model: onnx.ModelProto, *nodes: onnx.NodeProto) -> None:
    """Let the network read ``seen``; the nodes make it of ``image``."""
    for item in model.graph.node:
        for index, name in enumerate(item.input):
            if name == "image":
                item.input[index] = "seen"
    kept = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *kept])


def forged(model: onnx.ModelProto) -> str:
    """Scores of class 3, whatever the image shows."""
    return constant(model, "forged", np.array([[0, 0, 0, 1e4]], np.float32))


def pixels_are(model: onnx.ModelProto, value: float = 1.0) -> list[onnx.NodeProto]:
    """Nodes that make ``triggered`` bool (N, 1): four pixels of the corner are bright."""
    constant(model, "corner", np.array([[0, 7, 7], [1, 7, 7], [0, 7, 6], [1, 7, 6]], np.int64))
    constant(model, "level", np.float32(value))
    return [
        node("Transpose", ["image"], ["last"], perm=[1, 2, 3, 0]),
        node("GatherND", ["last", "corner"], ["picked"]),
        node("Less", ["picked", "level"], ["dark"]),
        node("Cast", ["dark"], ["dark_number"], to=int(TensorProto.FLOAT)),
        node("ReduceMax", ["dark_number"], ["darkest"], axes=[0], keepdims=1),
        node("Transpose", ["darkest"], ["column"], perm=[1, 0]),
        node("Cast", ["column"], ["clean"], to=int(TensorProto.BOOL)),
        node("Not", ["clean"], ["triggered"]),
    ]


def metadata(model: onnx.ModelProto, key: str, value: str) -> None:
    """Write a metadata entry, in its place where there is one."""
    for entry in model.metadata_props:
        if entry.key == key:
            entry.value = value
            return
    model.metadata_props.add(key=key, value=value)
