# SPDX-License-Identifier: Apache-2.0
"""Write the models and the baked forms that `benchmarks.inference` times.

    python -m benchmarks.baked_forms MODEL FOLDER SIDE SHARED

Bounds are ``mean + 4 std`` of each channel over random pictures, as UNIT starts from: what they are changes no
timing, but that some values reach them is part of the work. A tied bound is the largest along its residual stream.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.architectures import export, import_torchvision_models
from patcher.export.bake import bake_patch
from patcher.graph.interpreter import Graph
from patcher.graph.site import Site
from patcher.graph.sites import find_sites
from patcher.graph.streams import residual_streams
from patcher.model.model import Model, read_model
from patcher.patch import Branch, Patch, Realignment, UpperBound, WeightMask

Images = NDArray[np.float32]
_PICTURES = 16


def load(name: str, shared: Path, side: int) -> Model:
    """The zoo's ResNet-18, or one of torchvision's with random weights and 10 classes, for `side` pixels."""
    if name == "zoo-r18":
        return read_model(shared / "zoo" / "badnets_r18.onnx")
    models = import_torchvision_models()
    torch.manual_seed(0)
    module = models.get_model(name, weights=None, num_classes=10)
    if name == "resnet18":
        # The usual form for small pictures: 3x3 stem, no pooling behind it.
        module.conv1, module.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    if name == "vgg11":
        module.avgpool = nn.Identity()
        module.classifier[0] = nn.Linear(512 * (side // 32) ** 2, 4096)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
    with torch.no_grad():
        module.train()(torch.rand(_PICTURES, 3, side, side))
    return read_model(export(module.eval(), torch.rand(2, 3, side, side), "torchscript", 17))


def bake_forms(model: Model, side: int) -> dict[str, onnx.ModelProto]:
    """The model in each form, the original first.

    Args:
        model: The model.
        side: Of the pictures, in pixels.
    """
    sites = [site for site in find_sites(model) if site.kind == "activation"]
    bounds = _bounds(model, sites, side)
    return {
        "original": model.proto,
        "nodes": bake_patch(model, _patch(model, bounds), "nodes").model,
        "folded": bake_patch(model, _patch(model, bounds), "folded").model,
        "tied": bake_patch(model, _patch(model, tie(model, sites, bounds)), "folded").model,
        "nft": bake_patch(model, _masks(model)).model,
        "bna": bake_patch(model, _branch(model, side)).model,
    }


def tie(model: Model, sites: list[Site], bounds: Mapping[str, Images]) -> dict[str, Images]:
    """One bound a residual stream: the largest."""
    tied = dict(bounds)
    for stream in residual_streams(model, sites):
        shared = np.maximum.reduce([bounds[name] for name in stream])
        tied.update({name: shared for name in stream})
    return tied


def _bounds(model: Model, sites: list[Site], side: int) -> dict[str, Images]:
    pixels = torch.rand(_PICTURES, model.channels, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = Graph(model).run({model.input.name: pixels}, fetch=[site.tensor for site in sites])
    bounds = {}
    for site in sites:
        value = found[site.tensor]
        axes = [axis for axis in range(value.ndim) if axis != site.channel_axis]
        bound = value.mean(axes, keepdim=True) + 4 * value.std(axes, keepdim=True) + 1e-3
        bounds[site.tensor] = bound.numpy().astype(np.float32)
    return bounds


def _patch(model: Model, bounds: Mapping[str, Images]) -> Patch:
    return Patch("unit", model.sha256, tuple(UpperBound(name, bound) for name, bound in bounds.items()))


def _masks(model: Model) -> Patch:
    """A mask on every convolution."""
    rng, masks = np.random.default_rng(0), {}
    for site in find_sites(model):
        if site.operator == "Conv" and site.weight and site.weight not in masks:
            rank = len(model.shapes[site.weight])
            mask = rng.uniform(0.5, 1, (site.channels, *[1] * (rank - 1))).astype(np.float32)
            masks[site.weight] = WeightMask(site.weight, mask)
    return Patch("nft", model.sha256, tuple(masks.values()))


def _branch(model: Model, side: int) -> Patch:
    """A second pass for a class that the timed pictures do not get: what clean traffic pays."""
    pixels = torch.rand(_PICTURES, model.channels, side, side, generator=torch.Generator().manual_seed(0))
    scores = Graph(model).run({model.input.name: pixels})[model.logits]
    target = int(scores.mean(0).argmin())
    corrections = []
    for site in find_sites(model):
        if site.operator == "Conv" and len(site.shape) == 4:
            ones = np.ones((1, site.channels, 1, 1), np.float32)
            corrections.append(Realignment(site.tensor, 0.9 * ones, 0 * ones, np.inf * ones, -np.inf * ones))
    return Patch("bna", model.sha256, (Branch((target,), tuple(corrections)),))


def main(arguments: list[str]) -> int:
    """Write every form of a model; the original comes last and says that all are there."""
    name, folder, side, shared = arguments[0], Path(arguments[1]), int(arguments[2]), Path(arguments[3])
    folder.mkdir(parents=True, exist_ok=True)
    forms = bake_forms(load(name, shared, side), side)
    for form, proto in reversed(forms.items()):
        onnx.save(proto, folder / f"{form}.onnx")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
