# SPDX-License-Identifier: Apache-2.0
"""Convolutions and poolings over random attributes, against ONNX Runtime."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, InvalidGraph, RuntimeException

from patcher.errors import UnsupportedGraphError
from patcher.graph.interpreter import Graph
from tests.graph.oracle import assert_agrees, one_node, run_onnxruntime

RUNTIME_ERRORS = (Fail, InvalidArgument, InvalidGraph, RuntimeException)


def random_array(draw, *shape):
    return np.random.default_rng(draw.randrange(2**31)).standard_normal(shape).astype(np.float32)


def random_attributes(draw, rank, *, automatic=True):
    attributes = {"strides": [draw.randint(1, 3) for _ in range(rank)]}
    if draw.random() < 0.6:
        attributes["pads"] = [draw.randint(0, 1) for _ in range(2 * rank)]
    elif automatic:
        attributes["auto_pad"] = draw.choice(["SAME_UPPER", "SAME_LOWER", "VALID"])
    return attributes


def compare(operator, arrays, **options):
    """Equal to ONNX Runtime, or refused; whatever ONNX Runtime itself refuses says nothing."""
    proto, feed = one_node(operator, arrays, **options)
    try:
        run_onnxruntime(proto, feed, [f"out{place}" for place in range(options.get("outputs", 1))])
    except RUNTIME_ERRORS:
        return False
    try:
        assert_agrees(proto, feed)
    except UnsupportedGraphError:
        return False
    return True


@pytest.mark.parametrize("opset", [11, 17, 22])
@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose"])
def test_convolutions(operator, opset):
    draw, compared = random.Random(f"{operator}{opset}"), 0
    for _ in range(25):
        rank, group = draw.choice([1, 2, 2, 3]), draw.choice([1, 2])
        kernel = [draw.randint(1, 3) for _ in range(rank)]
        attributes = random_attributes(draw, rank)
        attributes |= {"dilations": [draw.randint(1, 2) for _ in range(rank)], "group": group}
        if operator == "ConvTranspose" and "auto_pad" not in attributes:
            longest = [max(pair) for pair in zip(attributes["strides"], attributes["dilations"], strict=True)]
            attributes["output_padding"] = [draw.randint(0, length - 1) for length in longest]
        weight = (6, 4 // group) if operator == "Conv" else (4, 6 // group)
        arrays = [
            random_array(draw, 2, 4, *[draw.randint(6, 9) for _ in range(rank)]),
            random_array(draw, *weight, *kernel),
            random_array(draw, 6),
        ]
        compared += compare(operator, arrays[: draw.choice([2, 3])], opset=opset, **attributes)
    assert compared >= 15


@pytest.mark.parametrize("opset", [11, 18, 22])
@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool", "LpPool"])
def test_poolings(operator, opset):
    draw, compared = random.Random(f"{operator}{opset}"), 0
    for _ in range(25):
        rank = draw.choice([1, 2, 2, 3])
        options = random_attributes(draw, rank)
        options["kernel_shape"] = [draw.randint(2, 3) for _ in range(rank)]
        if operator != "LpPool" or opset >= 18:
            options["ceil_mode"] = draw.randint(0, 1)
        if operator == "AveragePool":
            options["count_include_pad"] = draw.randint(0, 1)
        if operator == "MaxPool":
            options |= {"outputs": draw.randint(1, 2), "storage_order": draw.randint(0, 1)}
        if operator == "MaxPool" or opset >= 19:
            options["dilations"] = [draw.randint(1, 2) for _ in range(rank)]
        image = random_array(draw, 2, 3, *[draw.randint(6, 9) for _ in range(rank)])
        compared += compare(operator, [image], opset=opset, **options)
    assert compared >= 12


@pytest.mark.parametrize("operator", ["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"])
def test_global_poolings(operator):
    for shape in [(2, 3, 5), (2, 3, 4, 5), (1, 2, 3, 4, 5)]:
        assert compare(operator, [random_array(random.Random(0), *shape)], opset=17)


@pytest.mark.parametrize("shape", [[10], [11], [12], [13]])
@pytest.mark.parametrize("auto_pad", ["NOTSET", "SAME_UPPER", "SAME_LOWER"])
def test_transposed_convolution_of_a_given_output_size(shape, auto_pad):
    draw = random.Random(0)
    arrays = [random_array(draw, 1, 2, 6), random_array(draw, 2, 3, 3), random_array(draw, 3)]
    assert compare("ConvTranspose", arrays, strides=[2], output_shape=shape, auto_pad=auto_pad)


def test_padding_that_onnxruntime_does_otherwise_is_refused():
    x = np.ones((1, 1, 9, 9), np.float32)
    for attributes, message in [
        ({"kernel_shape": [3, 3], "dilations": [2, 2]}, "without dilations"),
        ({"kernel_shape": [1, 1], "strides": [3, 3]}, "crops"),
    ]:
        proto, feed = one_node("MaxPool", [x], auto_pad="SAME_UPPER", **attributes)
        with pytest.raises(UnsupportedGraphError, match=message):
            Graph(proto).run({name: torch.from_numpy(value) for name, value in feed.items()})


def test_a_zero_pad_before_a_max_pool_counts_as_zero():
    """ONNX Runtime's default optimisation fuses Pad into MaxPool, which pads with minus infinity."""
    x = torch.full((1, 1, 2, 2), -1.0)
    proto, _ = one_node("MaxPool", [x.numpy()], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    assert float(Graph(proto).run({"in0": x})["out0"].max()) == -1.0
    pads = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    padded, _ = one_node("Pad", [x.numpy(), pads], constants=(1,))
    assert float(Graph(padded).run({"in0": x})["out0"].max()) == 0.0
