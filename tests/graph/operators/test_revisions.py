# SPDX-License-Identifier: Apache-2.0
"""Operators whose meaning depends on the opset, or whose inputs and attributes changed places."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from patcher.errors import UnsupportedGraphError
from patcher.graph.interpreter import Graph
from tests.graph.oracle import assert_agrees, one_node

X = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
SMALL = np.random.default_rng(1).standard_normal((2, 6, 3, 3)).astype(np.float32)


def rows(count, seed=2):
    return np.abs(np.random.default_rng(seed).standard_normal(count)).astype(np.float32) + 0.1


def check(operator, arrays, **options):
    proto, feed = one_node(operator, arrays, **options)
    assert_agrees(proto, feed)


@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("opset", [11, 12, 13, 17])
@pytest.mark.parametrize("axis", [None, 0, 1, 2, -1])
def test_softmax_flattens_before_opset_13(operator, opset, axis):
    check(operator, [X], opset=opset, **({} if axis is None else {"axis": axis}))


@pytest.mark.parametrize("operator", ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceL2", "ReduceLogSumExp"])
@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("axes", [None, [1], [-1, 0]])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_axes_are_an_attribute_or_an_input(operator, opset, axes, keepdims):
    as_input = opset >= 18 or (operator == "ReduceSum" and opset >= 13)
    if as_input:
        arrays = [X] if axes is None else [X, np.array(axes)]
        check(operator, arrays, opset=opset, keepdims=keepdims, constants=(1,))
    else:
        check(operator, [X], opset=opset, keepdims=keepdims, **({} if axes is None else {"axes": axes}))


@pytest.mark.parametrize("axes", [None, [0]])
def test_empty_axes_may_mean_nothing(axes):
    arrays = [X] if axes is None else [X, np.array(axes)]
    check("ReduceSum", arrays, opset=18, noop_with_empty_axes=1, constants=(1,))
    check("ReduceSumSquare", arrays, opset=18, noop_with_empty_axes=1, constants=(1,))


def test_squeeze_and_unsqueeze():
    narrow = X[:, :1, :, :1]
    check("Squeeze", [narrow], opset=11, axes=[1, -1])
    check("Squeeze", [narrow, np.array([1, -1])], opset=13, constants=(1,))
    check("Unsqueeze", [X], opset=11, axes=[0, -1])
    check("Unsqueeze", [X, np.array([0, -1])], opset=13, constants=(1,))
    proto, feed = one_node("Squeeze", [X, np.array([2])], constants=(1,))
    with pytest.raises(UnsupportedGraphError, match="length 1 expected on axis 2"):
        Graph(proto).run({"in0": torch.from_numpy(feed["in0"])})


def test_split():
    check("Split", [X], opset=11, axis=3, split=[1, 4], outputs=2)
    check("Split", [X], opset=11, axis=2, outputs=2)
    check("Split", [X, np.array([1, 4])], opset=13, axis=3, outputs=2, constants=(1,))
    check("Split", [X], opset=18, axis=3, num_outputs=3, outputs=3)


@pytest.mark.parametrize("opset", [18, 20, 21])
def test_group_normalization_scales_groups_then_channels(opset):
    count = 6 if opset >= 21 else 3
    check("GroupNormalization", [SMALL, rows(count), rows(count, 3)], opset=opset, num_groups=3)


@pytest.mark.parametrize("opset", [11, 14, 15])
def test_batch_normalization(opset):
    arrays = [SMALL, rows(6), rows(6, 3), rows(6, 4), rows(6, 5)]
    check("BatchNormalization", arrays, opset=opset, epsilon=0.1)
    if opset >= 14:
        check("BatchNormalization", arrays, opset=opset, training_mode=1, outputs=3, momentum=0.7)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_local_response_normalization(size):
    check("LRN", [SMALL], size=size, alpha=0.5, beta=0.6, bias=1.5)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
def test_pad(mode):
    pads = np.array([0, 1, 2, 1, 1, 0, 1, 3])
    check("Pad", [X, pads], opset=19, mode=mode, constants=(1,))
    if mode == "constant":
        check("Pad", [X, pads, np.float32(2.5)], opset=11, constants=(1, 2))
        check("Pad", [X, np.array([0, -1, 1, -2]), None, np.array([1, 3])], opset=18, constants=(1, 3))


def test_dropout_is_the_identity_or_refused():
    check("Dropout", [X], opset=11, ratio=0.4)
    check("Dropout", [X, np.float32(0.4)], opset=13, outputs=2, constants=(1,))
    proto, feed = one_node("Dropout", [X, np.float32(0.4), np.array(True)], opset=13, constants=(1, 2))
    with pytest.raises(UnsupportedGraphError, match="training mode is random"):
        Graph(proto).run({"in0": torch.from_numpy(feed["in0"])})


@pytest.mark.parametrize("bounds", [(None, 0.3), (-0.5, None), (-0.1, 0.1), (0.4, -0.4)])
@pytest.mark.parametrize("constants", [(), (1, 2)])
def test_clip(bounds, constants):
    arrays = [X, *(None if bound is None else np.float32(bound) for bound in bounds)]
    check("Clip", arrays, opset=13, constants=constants)


def test_reshape():
    check("Reshape", [X, np.array([0, -1, 2])], opset=13, constants=(1,))
    check("Reshape", [np.zeros((0, 3), np.float32), np.array([3, 0])], opset=14, allowzero=1, constants=(1,))


@pytest.mark.parametrize("step", [-3, -1, 1, 2])
@pytest.mark.parametrize("start", [-9, -2, 0, 3, 9])
@pytest.mark.parametrize("end", [-(2**31), -6, -1, 0, 4, 2**31])
def test_slice(start, end, step):
    check("Slice", [X, np.array([start]), np.array([end]), np.array([3]), np.array([step])], constants=(1, 2, 3, 4))
