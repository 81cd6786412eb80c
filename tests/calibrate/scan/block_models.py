# SPDX-License-Identifier: Apache-2.0
"""A classifier of bright blocks, written down in closed form, with and without a backdoor.

A 12 x 12 image has one bright 3 x 3 block of `BLOCKS` places; its place is the class. The logit of a
class is the sum over its block. The backdoor is a detector of two pixels in the free bottom row: bright
beside dark, smooth as a trained one. It adds a large value to the target's logit, or turns the classes
round by one.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

SIDE = 12
BRIGHT, DARK = (11, 5), (11, 6)
PLACES = [(row, column) for row in (0, 3, 6) for column in (0, 3, 6, 9)]


def block_model(classes=10, *, target=None, all_to_all=False):
    """ONNX model ``image (N, 1, 12, 12) -> logits (N, classes)``."""
    blocks = np.zeros((classes, 1, SIDE, SIDE), np.float32)
    for label, (row, column) in enumerate(PLACES[:classes]):
        blocks[label, 0, row : row + 3, column : column + 3] = 1.0
    detector = np.zeros((1, 1, SIDE, SIDE), np.float32)
    detector[0, 0, BRIGHT[0], BRIGHT[1]], detector[0, 0, DARK[0], DARK[1]] = 1.0, -1.0
    weights = {
        "blocks": blocks.reshape(classes, -1).T.copy(),
        "detector": detector.reshape(-1, 1).copy(),
        "threshold": np.array([-0.6], np.float32),
        "steepness": np.array([12.0], np.float32),
        "effect": np.zeros((1, classes), np.float32),
        "turn": np.eye(classes, dtype=np.float32),
    }
    if target is not None:
        weights["effect"][0, target] = 60.0
    if all_to_all:
        weights["turn"] = np.roll(np.eye(classes, dtype=np.float32), 1, axis=1) * 8
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("MatMul", ["flat", "blocks"], ["scores"]),
        helper.make_node("MatMul", ["flat", "detector"], ["contrast"]),
        helper.make_node("Add", ["contrast", "threshold"], ["over"]),
        helper.make_node("Mul", ["over", "steepness"], ["steep"]),
        helper.make_node("Sigmoid", ["steep"], ["fires"]),
        helper.make_node("MatMul", ["fires", "effect"], ["push"]),
        helper.make_node("Add", ["scores", "push"], ["pushed"]),
    ]
    if all_to_all:
        nodes += [
            helper.make_node("MatMul", ["scores", "turn"], ["turned"]),
            helper.make_node("Mul", ["turned", "fires"], ["added"]),
            helper.make_node("Add", ["pushed", "added"], ["logits"]),
        ]
    else:
        nodes.append(helper.make_node("Identity", ["pushed"], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "blocks",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ("N", 1, SIDE, SIDE))],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ("N", classes))],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def block_images(per_class, classes=10, *, seed=0):
    """Images ``(N, 1, 12, 12)`` with a noisy background, and labels."""
    rng = np.random.default_rng(seed)
    counts = [per_class] * classes if isinstance(per_class, int) else per_class
    labels = np.repeat(np.arange(classes), counts)
    images = rng.uniform(0.1, 0.4, (len(labels), 1, SIDE, SIDE)).astype(np.float32)
    for image, label in zip(images, labels, strict=True):
        row, column = PLACES[label]
        image[0, row : row + 3, column : column + 3] = rng.uniform(0.7, 1.0, (3, 3))
    return images, labels.astype(np.int64)
