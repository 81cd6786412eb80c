# SPDX-License-Identifier: Apache-2.0
"""I-BAU: unlearn the worst universal perturbation, with the implicit hypergradient.

Zeng et al., "Adversarial Unlearning of Backdoors via Implicit Hypergradient", ICLR 2022, Eq. 2, Algorithm 1:

    min over theta of  H(delta(theta), theta),  delta(theta) = argmin  mean(-CE(x + delta)) + 0.001 |delta|^2
    d H / d theta = H_theta + (d Phi / d theta)^T v,   v = H_delta + (d Phi / d delta)^T v  (five fixed-point rounds)

with Phi one gradient step of 0.1 on the inner problem, |delta| at most 10, five rounds, Adam. The learning rate is
1e-4, as BackdoorBench sets it for pretrained networks; in each outer batch one image in a hundred carries the
perturbation, as in the authors' code. float32: the programme needs second derivatives.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.peers.weights import Setting
from patcher.calibrate.none.reinitialization import as_rewrite

_ROUNDS, _FIXED_POINT, _RATE, _BATCH = 5, 5, 1e-4, 100
_INNER_RATE, _SEARCH_RATE, _WEIGHT, _LONGEST = 0.1, 10.0, 0.001, 10.0
_PORTION = 0.01

Batch = tuple[Tensor, Tensor]


def unlearn_perturbation(setting: Setting) -> None:
    """Five rounds: the worst perturbation over all images, then one step of the weights a batch."""
    weights = list(setting.weights.values())
    optimizer = torch.optim.Adam(weights, lr=_RATE)
    batches = list(setting.batches(1, _BATCH, augment=False))
    for _ in range(_ROUNDS):
        delta = _search(setting, batches)
        for batch in batches:
            slopes = _hypergradient(setting, delta, batches[0], batch)
            for weight, slope in zip(weights, slopes, strict=True):
                weight.grad = slope
            optimizer.step()


def _inner(setting: Setting, delta: Tensor, batch: Batch, weights: dict[str, Tensor]) -> Tensor:
    logits = setting.classifier.logits(batch[0] + delta, rewrite=as_rewrite(weights))
    return -cross_entropy(logits, batch[1]) + _WEIGHT * delta.square().sum()


def _outer(setting: Setting, delta: Tensor, batch: Batch, weights: dict[str, Tensor]) -> Tensor:
    images, labels = batch
    carried = max(1, int(len(images) * _PORTION))
    carries = (torch.arange(len(images)) < carried).float()[:, None, None, None]
    logits = setting.classifier.logits(images + carries * delta, rewrite=as_rewrite(weights))
    return cross_entropy(logits, labels)


def _search(setting: Setting, batches: list[Batch]) -> Tensor:
    """One pass over all images by gradient steps, kept within the longest length."""
    fixed = {name: value.detach() for name, value in setting.weights.items()}
    delta = torch.zeros(1, *setting.clean_set.shape, requires_grad=True)
    for batch in batches:
        (slope,) = torch.autograd.grad(_inner(setting, delta, batch, fixed), delta)
        moved = (delta - _SEARCH_RATE * slope).detach()
        delta = (moved * (_LONGEST / moved.norm().clamp_min(1e-12)).clamp_max(1)).requires_grad_()
    return delta


def _hypergradient(setting: Setting, delta: Tensor, first: Batch, batch: Batch) -> list[Tensor]:
    """The outer gradient of the weights with the implicit term."""
    names, weights = list(setting.weights), list(setting.weights.values())
    given = dict(zip(names, weights, strict=True))
    outer = torch.autograd.grad(_outer(setting, delta, batch, given), [delta, *weights], allow_unused=True)
    by_delta, by_weights = outer[0], outer[1:]
    (slope,) = torch.autograd.grad(_inner(setting, delta, first, given), delta, create_graph=True)
    step = delta - _INNER_RATE * slope
    vector = by_delta
    for _ in range(_FIXED_POINT):
        (pulled,) = torch.autograd.grad(step, delta, grad_outputs=vector, retain_graph=True)
        vector = pulled + by_delta
    implicit = torch.autograd.grad(step, weights, grad_outputs=vector, allow_unused=True)
    return [
        torch.zeros_like(weight) + (0 if direct is None else direct) + (0 if further is None else further)
        for weight, direct, further in zip(weights, by_weights, implicit, strict=True)
    ]
