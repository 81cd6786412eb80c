# SPDX-License-Identifier: Apache-2.0
"""ANP: prune the neurons whose masks go first when neurons are perturbed adversarially.

Wu and Wang, "Adversarial Neuron Pruning Purifies Backdoored Deep Models", NeurIPS 2021, Eq. 5 and Algorithm 1: masks m
in [0, 1] on the channels' weights, perturbations delta and xi of at most 0.4 on weights and shifts, one sign step each;
loss 0.2 plain + 0.8 perturbed; SGD 0.2 with momentum 0.9, 2000 steps of 128 images. Then every channel below a
threshold is set to zero. The published tables choose the threshold with test images and the attack's success; here it
is the highest of 0.05, 0.1, ... 0.95 that costs at most a point of accuracy on held-out images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.peers.weights import EPSILON, Setting
from patcher.calibrate.augmentation import apply_all, mirror, shift
from patcher.calibrate.minibatches import Minibatches
from patcher.calibrate.none.reinitialization import as_rewrite

_STEPS, _BATCH, _RATE, _MOMENTUM = 2000, 128, 0.2, 0.9
_EPS, _ALPHA = 0.4, 0.2
_THRESHOLDS = np.arange(0.95, 0.0, -0.05)


@dataclass(frozen=True)
class _Neurons:
    """The channels of one layer: its weight, for each element of it the channel, and its shift."""

    weight: str
    index: Tensor
    channels: int
    shift: str | None


def prune(setting: Setting) -> None:
    """Fit the masks, choose the threshold, set pruned channels of the weights to zero."""
    layers = _layers(setting)
    masks = _fit(setting, layers)
    held_out = setting.clean_set.deciding
    before = setting.held_out()
    for threshold in _THRESHOLDS:
        kept = {name: (mask > threshold).float() for name, mask in masks.items()}
        pruned = _masked(setting, layers, kept, {})
        if setting.accuracy(held_out, as_rewrite(pruned)) >= before - EPSILON:
            setting.weights.update({name: value.detach() for name, value in pruned.items()})
            return


def _layers(setting: Setting) -> list[_Neurons]:
    """Every weight once; the class scores' own layer is not pruned."""
    found: dict[str, _Neurons] = {}
    for layer in setting.layers:
        if (mask := layer.weight) is not None and mask.initializer in setting.weights:
            behind = layer.shift if layer.shift in setting.weights else None
            found[mask.initializer] = _Neurons(mask.initializer, torch.from_numpy(mask.index), mask.channels, behind)
    return list(found.values())


def _masked(
    setting: Setting, layers: list[_Neurons], scales: Mapping[str, Tensor], shifts: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """``scale w`` and ``(1 + shift) b``, one number a channel."""
    weights = {name: value.detach() for name, value in setting.weights.items()}
    for layer in layers:
        weights[layer.weight] = weights[layer.weight] * scales[layer.weight][layer.index]
        if layer.shift is not None and layer.weight in shifts:
            weights[layer.shift] = weights[layer.shift] * (1 + shifts[layer.weight])
    return weights


def _fit(setting: Setting, layers: list[_Neurons]) -> dict[str, Tensor]:
    """Masks ``(C,)`` by name of the weight."""
    classifier, clean_set = setting.classifier, setting.clean_set
    masks = {layer.weight: torch.ones(layer.channels, requires_grad=True) for layer in layers}
    optimizer = torch.optim.SGD(list(masks.values()), lr=_RATE, momentum=_MOMENTUM)
    order, chance = np.random.default_rng(setting.seed).spawn(2)
    batches, generator = Minibatches(clean_set.fit, order), torch.Generator().manual_seed(setting.seed)

    for _ in range(_STEPS):
        part = batches.take(min(_BATCH, len(clean_set.fit)))
        images = apply_all((mirror, shift), classifier.tensor(clean_set.images(part)), chance)
        labels = torch.from_numpy(clean_set.labels[part])

        def loss(
            scales: Mapping[str, Tensor],
            shifts: Mapping[str, Tensor],
            images: Tensor = images,
            labels: Tensor = labels,
        ) -> Tensor:
            rewrite = as_rewrite(_masked(setting, layers, scales, shifts))
            return cross_entropy(classifier.logits(images, rewrite=rewrite), labels)

        scale, move = (_noise(layers, generator) for _ in range(2))
        worst = loss({name: masks[name].detach() + scale[name] for name in masks}, move)
        slopes = torch.autograd.grad(worst, [*scale.values(), *move.values()], allow_unused=True)
        for value, slope in zip([*scale.values(), *move.values()], slopes, strict=True):
            if slope is not None:
                value.data.add_(_EPS * slope.sign()).clamp_(-_EPS, _EPS)
        optimizer.zero_grad()
        perturbed = loss({name: masks[name] + scale[name].detach() for name in masks}, _fixed(move))
        (_ALPHA * loss(masks, {}) + (1 - _ALPHA) * perturbed).backward()
        optimizer.step()
        with torch.no_grad():
            for mask in masks.values():
                mask.clamp_(0, 1)
    return {name: mask.detach() for name, mask in masks.items()}


def _noise(layers: list[_Neurons], generator: torch.Generator) -> dict[str, Tensor]:
    """A random start within the bound."""
    return {
        layer.weight: ((2 * torch.rand(layer.channels, generator=generator) - 1) * _EPS).requires_grad_()
        for layer in layers
    }


def _fixed(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in values.items()}
