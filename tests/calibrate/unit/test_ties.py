# SPDX-License-Identifier: Apache-2.0
"""Bounds shared along residual streams."""

from __future__ import annotations

import numpy as np
import torch

from patcher.calibrate.statistics import Moments
from patcher.calibrate.unit.ties import shared_parameters, tie_moments
from patcher.graph.sites import find_sites
from patcher.graph.streams import residual_streams
from patcher.model.model import read_model
from tests.tiny_models import SHARED, build, head, node, residual_model, weights_of, zoo


def activation_sites(model):
    return [site for site in find_sites(model) if site.kind == "activation"]


def moments_of(sites):
    generator = torch.Generator().manual_seed(2)
    drawn = {site.tensor: torch.rand(4, *[1, site.channels, 1, 1], generator=generator).double() for site in sites}
    return {name: Moments(*values) for name, values in drawn.items()}


def test_a_residual_block_is_one_stream():
    model = read_model(residual_model())
    assert residual_streams(model, activation_sites(model)) == [("r1", "r2")]


def test_a_convolution_between_two_sites_keeps_them_apart():
    nodes = [node("Conv", ["image", "w1"], ["c1"]), node("Relu", ["c1"], ["r1"]), node("Conv", ["r1", "w2"], ["c2"])]
    nodes += [node("Relu", ["c2"], ["r2"]), *head("r2")]
    shapes = {"w1": (6, 3, 1, 1), "w2": (6, 6, 1, 1), "fc": (4, 6), "fc_bias": (4,)}
    model = read_model(build(nodes, weights_of(shapes)))
    assert residual_streams(model, activation_sites(model)) == []


@zoo
def test_streams_of_the_zoo():
    """Three streams of an 8-block network start at its projections, one at its stem."""
    model = read_model(SHARED / "zoo" / "badnets_r18.onnx")
    streams = residual_streams(model, activation_sites(model))
    assert [len(stream) for stream in streams] == [3, 2, 2, 2]


def test_the_highest_start_is_shared_and_so_is_the_parameter():
    model = read_model(residual_model())
    sites = activation_sites(model)
    moments = moments_of(sites)
    tied = tie_moments(moments, model, sites, 4.0)
    start = {name: (found.mean + 4 * found.std).numpy() for name, found in moments.items()}
    assert (start["r1"] > start["r2"]).any()
    assert (start["r1"] < start["r2"]).any()
    assert tied["r1"] is tied["r2"]
    np.testing.assert_array_equal((tied["r1"].mean + 4 * tied["r1"].std).numpy(), np.maximum(*start.values()))
    parameters = shared_parameters(tied)
    assert parameters["r1"] is parameters["r2"]
    assert shared_parameters(moments)["r1"] is not shared_parameters(moments)["r2"]


@zoo
def test_unit_fits_tied_bounds_that_fold_without_rescaling():
    from patcher.commands.calibrate import calibrate
    from patcher.export.bake import bake_patch

    path = SHARED / "zoo" / "badnets_r18.onnx"
    clean = SHARED / "cifar10" / "clean"
    options = {"steps": 2, "check_every": 1, "epsilon": 0.5, "limit_per_class": 8}
    patch = calibrate(path, clean_dir=clean, tie_residual=True, **options).patch
    bounds = {item.tensor: item.bound for item in patch.corrections}
    model = read_model(path)
    for stream in residual_streams(model, activation_sites(model)):
        for name in stream[1:]:
            np.testing.assert_array_equal(bounds[name], bounds[stream[0]])
    baked = bake_patch(model, patch, "folded")
    assert baked.as_json() == {"folded": 17, "nodes": {}, "rescaled": []}
    untied = calibrate(path, clean_dir=clean, **options).patch
    assert len(bake_patch(model, untied, "folded").rescaled) == 5
