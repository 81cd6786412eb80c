# SPDX-License-Identifier: Apache-2.0
"""Neural Cleanse, one target at a time, as published: the peer of `benchmarks.scan`.

Wang et al., S&P 2019: Adam, learning rate 0.1, betas 0.5 and 0.9, 1e-3 as first weight, times 1.5 after
five good epochs, divided by 1.5^1.5 after five bad ones; the smallest mask with 99 % success.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from patcher.calibrate.classifier import Classifier
from patcher.data.clean_set import CleanSet


@dataclass(frozen=True)
class Cleansed:
    """One target of the peer: its smallest mask ``(1, 1, H, W)`` and pattern ``(1, C, H, W)``, in [0, 1]."""

    norm: float
    success: float
    seconds: float
    mask: Tensor
    pattern: Tensor


def neural_cleanse(
    classifier: Classifier, clean_set: CleanSet, target: int, *, epochs: int, seed: int, batch: int = 32
) -> Cleansed:
    """Invert one target by the published schedule; the smallest mask whose epoch reached 99 %."""
    started = time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    channels, height, width = clean_set.pixels.shape[1:]
    raw_mask = torch.randn(1, 1, height, width, generator=generator).requires_grad_()
    raw_pattern = torch.randn(1, channels, height, width, generator=generator).requires_grad_()
    optimizer = torch.optim.Adam([raw_mask, raw_pattern], lr=0.1, betas=(0.5, 0.9))
    weight, good, bad = 1e-3, 0, 0
    best = (np.inf, 0.0, torch.zeros(1, 1, height, width), torch.zeros(1, channels, height, width))
    pool = clean_set.fit[clean_set.labels[clean_set.fit] != target]
    rng = np.random.default_rng(seed)
    wanted = torch.full((batch,), target)
    for _ in range(epochs):
        hits = count = 0
        norms = []
        for indices in np.array_split(rng.permutation(pool), max(1, len(pool) // batch)):
            images = classifier.tensor(clean_set.images(indices))
            mask, pattern = (torch.tanh(raw) / 2 + 0.5 for raw in (raw_mask, raw_pattern))
            logits = classifier.logits((1 - mask) * images + mask * pattern)
            loss = torch.nn.functional.cross_entropy(logits, wanted[:1].expand(len(images))) + weight * mask.sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            hits, count = hits + int((logits.argmax(1) == target).sum()), count + len(images)
            norms.append(mask.sum().item())
        if hits / count >= 0.99 and np.mean(norms) < best[0]:
            best = (float(np.mean(norms)), hits / count, mask.detach(), pattern.detach())
        good, bad = (good + 1, 0) if hits / count >= 0.99 else (0, bad + 1)
        if good >= 5:
            weight, good = weight * 1.5, 0
        elif bad >= 5:
            weight, bad = weight / 1.5**1.5, 0
    norm, success, mask, pattern = best
    return Cleansed(norm, success, time.perf_counter() - started, mask, pattern)
