# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from patcher.errors import UnsupportedGraphError
from patcher.graph.interpreter import Graph
from tests.graph.operators.test_windows import compare, random_array
from tests.graph.oracle import one_node

EMPTY = np.zeros(0, np.float32)
MODES = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("opset", [11, 13, 18, 19])
@pytest.mark.parametrize("coordinates", MODES)
def test_every_mode_is_onnxruntimes(mode, opset, coordinates):
    draw, compared = random.Random(f"{mode}{opset}{coordinates}"), 0
    for _ in range(6):
        attributes = {"mode": mode, "coordinate_transformation_mode": coordinates}
        if mode == "nearest":
            attributes["nearest_mode"] = draw.choice(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
        if mode == "cubic":
            attributes |= {"cubic_coeff_a": draw.choice([-0.5, -0.75]), "exclude_outside": draw.randint(0, 1)}
        if opset >= 18 and mode != "nearest":
            attributes["antialias"] = draw.randint(0, 1)
        image = random_array(draw, 1, 2, draw.randint(2, 9), draw.randint(2, 9))
        if draw.random() < 0.5:
            scales = np.array([1, 1, draw.choice([0.5, 1.5, 2, 3]), draw.choice([0.75, 1.3, 2])], np.float32)
            compared += compare("Resize", [image, EMPTY, scales], opset=opset, constants=(1, 2), **attributes)
        else:
            sizes = np.array([1, 2, draw.randint(1, 14), draw.randint(1, 14)])
            compared += compare("Resize", [image, EMPTY, EMPTY, sizes], opset=opset, constants=(1, 2, 3), **attributes)
    assert compared >= 1


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_gradient_is_the_transposed_matrix(mode):
    sizes = np.array([1, 1, 7, 3])
    image = torch.rand(1, 1, 4, 5, dtype=torch.float64, requires_grad=True)
    proto, _ = one_node("Resize", [image.detach().float().numpy(), None, None, sizes], constants=(3,), mode=mode)
    graph = Graph(proto, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: graph.run({"in0": x})["out0"], (image,))


@pytest.mark.parametrize(
    ("scale", "coordinates", "message"),
    [(0.6, "align_corners", "whole length"), (1.3, "half_pixel", "runtimes disagree")],
)
def test_what_runtimes_do_differently_is_refused(scale, coordinates, message):
    image, scales = np.ones((1, 1, 3, 3), np.float32), np.array([1, 1, scale, 1], np.float32)
    proto, _ = one_node(
        "Resize", [image, EMPTY, scales], constants=(1, 2), mode="linear", coordinate_transformation_mode=coordinates
    )
    with pytest.raises(UnsupportedGraphError, match=message):
        Graph(proto).run({"in0": torch.from_numpy(image)})
