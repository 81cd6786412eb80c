# SPDX-License-Identifier: Apache-2.0
"""Interpreter, exporter and ONNX Runtime agree on graphs that nobody wrote."""

from __future__ import annotations

import numpy as np
import onnxruntime
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from patcher.export import apply_patch
from patcher.graph.interpreter import Graph
from patcher.graph.sites import find_sites
from patcher.model.model import read_model
from patcher.patch import Patch, UpperBound
from tests.graph.oracle import assert_agrees, assert_near, run_onnxruntime
from tests.graph.random_graphs import classifiers

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def images(seed, batch=2):
    return np.random.default_rng(seed).standard_normal((batch, 3, 8, 8)).astype(np.float32)


@QUICK
@given(proto=classifiers(), seed=st.integers(0, 99), channels_last=st.booleans())
def test_every_tensor_is_onnxruntimes(proto, seed, channels_last):
    assert_agrees(proto, {"image": images(seed)}, tolerance=1e-4, channels_last=channels_last)


@QUICK
@given(proto=classifiers(), seed=st.integers(0, 99), data=st.data())
def test_a_bound_in_flight_is_the_bound_in_the_file(proto, seed, data):
    model = read_model(proto)
    sites = [site for site in find_sites(model) if site.kind == "activation"]
    if not sites:
        return
    x = images(seed)
    site = data.draw(st.sampled_from(sites))
    value = run_onnxruntime(proto, {"image": x}, [site.tensor])[site.tensor]
    bound = np.quantile(
        value, 0.6, axis=[axis for axis in range(value.ndim) if axis != site.channel_axis], keepdims=True
    )
    bound = bound.astype(np.float32)
    patch = Patch("unit", model.sha256, (UpperBound(site.tensor, bound),))
    hardened = apply_patch(model, patch)
    expected = run_onnxruntime(hardened, {"image": x}, ["logits"])["logits"]
    limit = torch.from_numpy(bound)
    found = Graph(model).run(
        {"image": torch.from_numpy(x)}, rewrite={site.tensor: lambda tensor: tensor.minimum(limit)}
    )
    assert_near(found["logits"], expected, 1e-4)


@QUICK
@given(proto=classifiers(), seed=st.integers(0, 99))
def test_neutral_bounds_change_nothing(proto, seed):
    model = read_model(proto)
    sites = [site for site in find_sites(model) if site.kind == "activation"]
    corrections = tuple(UpperBound(site.tensor, np.array(np.inf, np.float32)) for site in sites)
    hardened = apply_patch(model, Patch("unit", model.sha256, corrections))
    x = images(seed)
    names = [value.name for value in proto.graph.output]
    session = onnxruntime.InferenceSession(hardened.SerializeToString(), providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == names
    before = run_onnxruntime(proto, {"image": x}, names)
    after = Graph(hardened).run({"image": torch.from_numpy(x)})
    for name, value in zip(names, session.run(names, {"image": x}), strict=True):
        assert_near(torch.from_numpy(value), before[name], 1e-4, name)
        assert_near(after[name], before[name], 1e-4, name)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(proto=classifiers(most_steps=5), seed=st.integers(0, 99))
def test_the_gradient_is_the_slope(proto, seed):
    """Along a random direction, by central differences in float64, for the steps that are smooth there."""
    graph = Graph(proto, dtype=torch.float64)
    x = torch.from_numpy(images(seed)).double().requires_grad_()
    direction = torch.from_numpy(images(seed + 1)).double()

    def score(picture):
        return graph.run({"image": picture})["logits"].square().sum()

    value = score(x)
    (gradient,) = torch.autograd.grad(value, x)
    slope = float((gradient * direction).sum())
    with torch.no_grad():
        measured = [
            float(score(x + step * direction) - score(x - step * direction)) / (2 * step) for step in (1e-6, 3e-7)
        ]
    scale = float(gradient.norm() * direction.norm()) + 1e-9
    # A kink between the two points spoils one of the step widths, hardly ever both.
    assert min(abs(slope - number) for number in measured) / scale < 1e-4
