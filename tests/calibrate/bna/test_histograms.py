# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patcher.calibrate.bna.histograms import DIVERGENCES, Bins, soft_histogram
from patcher.errors import InputError


def every_edge(values: torch.Tensor, bins: Bins) -> torch.Tensor:
    """The same counts from all edges, as the paper writes them."""
    edges = bins.low + bins.width * torch.arange(1, bins.count, dtype=values.dtype)
    above = torch.sigmoid(bins.temperature * (values.unsqueeze(-1) - edges)).mean(1)
    ends = torch.ones(len(values), 1, dtype=values.dtype), torch.zeros(len(values), 1, dtype=values.dtype)
    full = torch.cat([ends[0], above, ends[1]], dim=1)
    return full[:, :-1] - full[:, 1:]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), count=st.integers(3, 40), spread=st.floats(0.01, 5))
def test_two_nearest_edges_are_enough(seed: int, count: int, spread: float) -> None:
    values = spread * torch.randn(3, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    bins = Bins(-1.0, count)
    torch.testing.assert_close(soft_histogram(values, bins), every_edge(values, bins), atol=1e-6, rtol=0)


def test_counts_are_shares_and_the_end_bins_are_open() -> None:
    values = torch.tensor([[-100.0, -0.95, 0.05, 0.05, 1e6]])
    found = soft_histogram(values, Bins(-1.0, 20))
    assert float(found.sum()) == pytest.approx(1)
    assert found[0, 0] == pytest.approx(0.4, abs=1e-2)
    assert found[0, 10] == pytest.approx(0.4, abs=1e-2)
    assert found[0, 19] == pytest.approx(0.2, abs=1e-6)


def test_the_gradient_is_that_of_the_formula() -> None:
    values = torch.randn(2, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    bins, weights = Bins(-1.0, 20), torch.arange(20, dtype=torch.float64) ** 2
    (found,) = torch.autograd.grad((soft_histogram(values, bins) * weights).sum(), values)
    (wanted,) = torch.autograd.grad((every_edge(values, bins) * weights).sum(), values)
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-3)
    assert float(found.abs().max()) > 1


@pytest.mark.parametrize("name", ["tv", "js", "kl"])
def test_divergences_vanish_for_equals_alone(name: str) -> None:
    rng = np.random.default_rng(0)
    first, second = (torch.from_numpy(rng.dirichlet(np.ones(30), 4)) for _ in range(2))
    divergence = DIVERGENCES[name]
    torch.testing.assert_close(divergence(first, first), torch.zeros(4, dtype=torch.float64))
    assert bool((divergence(first, second) > 0.05).all())


def test_known_divergences() -> None:
    first, second = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert float(DIVERGENCES["tv"](first, second)) == pytest.approx(1)
    assert float(DIVERGENCES["js"](first, second)) == pytest.approx(np.log(2), rel=1e-3)


def test_a_blunt_temperature_is_refused() -> None:
    with pytest.raises(InputError, match="--temperature: at least 100"):
        Bins(0.0, 10, 0.1, 20.0)
