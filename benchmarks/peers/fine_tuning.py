# SPDX-License-Identifier: Apache-2.0
"""Plain fine-tuning, and FT-SAM: fine-tuning with sharpness-aware minimisation.

Zhu et al., "Enhancing Fine-Tuning Based Backdoor Defense with Sharpness-Aware Minimization", ICCV 2023: adaptive SAM
with rho 2 (Eq. 3 there; each weight's perturbation in proportion to its own square), label smoothing 0.1, SGD 0.01
with momentum 0.9, weight decay 5e-4, a cosine to zero, batch 256, 100 epochs. Plain fine-tuning is the same without the
perturbation and the smoothing.

Rate and rho are for networks that normalise each batch; most files have BatchNormalization folded away, and there
both can destroy the network. So a fifth of the images is held out; the rate is the largest of 0.01, 0.003, 0.001 and
0.0003 that costs them at most a point of accuracy without perturbation; rho is halved, from 2 to 1/32 at most, until
they are answered as well as then, up to a point. Where a tenth of the epochs halves their accuracy, the rest is spared.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.peers.weights import EPSILON, Setting, train_largest

_RATES, _MOMENTUM, _DECAY, _BATCH, _EPOCHS = (0.01, 0.003, 0.001, 0.0003), 0.9, 5e-4, 256, 100
_RHOS, _SMOOTHING = (2.0, 1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125), 0.1


def fine_tune(setting: Setting) -> None:
    """Train all weights on the clean images."""
    _plain(setting, smoothing=0.0)


def sharpness_aware(setting: Setting) -> None:
    """FT-SAM."""
    given = setting.copied()
    rate = _plain(setting, smoothing=_SMOOTHING)
    wanted = setting.held_out() - EPSILON
    setting.put(given)
    train_largest(setting, _RHOS, lambda rho: _train(setting, rate, rho=rho, smoothing=_SMOOTHING), wanted)


def _plain(setting: Setting, *, smoothing: float) -> float:
    """Train with the largest rate that the network stands, and give it."""
    wanted = setting.held_out() - EPSILON
    return train_largest(setting, _RATES, lambda rate: _train(setting, rate, rho=0.0, smoothing=smoothing), wanted)


def _train(setting: Setting, rate: float, *, rho: float, smoothing: float) -> None:
    weights = list(setting.weights.values())
    optimizer = torch.optim.SGD(weights, lr=rate, momentum=_MOMENTUM, weight_decay=_DECAY)
    fit, least = setting.clean_set.fit, setting.held_out() / 2
    steps = _EPOCHS * max(1, round(len(fit) / _BATCH))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for done, (images, labels) in enumerate(setting.batches(_EPOCHS, _BATCH, fit)):
        if done == steps // 10 and setting.held_out() < least:
            return

        def loss(images: Tensor = images, labels: Tensor = labels) -> Tensor:
            logits = setting.classifier.logits(images, rewrite=setting.rewrite)
            return cross_entropy(logits, labels, label_smoothing=smoothing)

        moved = _climb(weights, torch.autograd.grad(loss(), weights), rho) if rho else []
        optimizer.zero_grad()
        loss().backward()
        with torch.no_grad():
            for weight, step in zip(weights, moved, strict=False):
                weight.sub_(step)
        optimizer.step()
        schedule.step()


@torch.no_grad()
def _climb(weights: list[Tensor], slopes: tuple[Tensor, ...], rho: float) -> list[Tensor]:
    """Move the weights uphill, ``rho w^2 g / | |w| g |`` over all of them; what was added."""
    length = torch.stack([(weight.abs() * slope).norm() for weight, slope in zip(weights, slopes, strict=True)]).norm()
    moved = [rho / (length + 1e-12) * weight.square() * slope for weight, slope in zip(weights, slopes, strict=True)]
    for weight, step in zip(weights, moved, strict=True):
        weight.add_(step)
    return moved
