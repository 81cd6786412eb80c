# SPDX-License-Identifier: Apache-2.0
"""Neural Cleanse with unlearning.

Wang et al., "Neural Cleanse", S&P 2019, sections IV and VI-B: the smallest mask of every class; a class whose norm lies
more than two deviations of the median under it is the attacker's (anomaly index above 2); then the model is trained for
one epoch on the clean images with that trigger on a fifth of them, under their right labels. Where no class stands out
nothing is changed. A class that is not reached counts with the whole picture. The paper names no learning rate: it is
0.01, halved down to 1/32 of it until the loss on held-out images, which are not trained on, is at most a point.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from benchmarks.neural_cleanse import Cleansed, neural_cleanse
from benchmarks.peers.weights import EPSILON, Setting, train_largest

_EPOCHS, _MOMENTUM, _BATCH, _STAMPED = 20, 0.9, 32, 0.2
_RATES = tuple(0.01 / 2**k for k in range(6))
_ANOMALY, _CONSISTENCY = 2.0, 1.4826


def cleanse(setting: Setting) -> None:
    """Find the trigger; train it away."""
    found = [
        neural_cleanse(setting.classifier, setting.clean_set, target, epochs=_EPOCHS, seed=setting.seed)
        for target in range(setting.classifier.model.num_classes)
    ]
    _, height, width = setting.clean_set.shape
    norms = np.array([min(item.norm, height * width) for item in found])
    deviations = np.abs(norms - np.median(norms)) / max(
        _CONSISTENCY * np.median(np.abs(norms - np.median(norms))), 1e-9
    )
    anomalous = np.flatnonzero((norms < np.median(norms)) & (deviations > _ANOMALY))
    if not len(anomalous):
        return
    smallest = found[int(anomalous[np.argmin(norms[anomalous])])]
    wanted = setting.held_out() - EPSILON
    train_largest(setting, _RATES, lambda rate: _unlearn(setting, smallest, rate), wanted)


def _unlearn(setting: Setting, trigger: Cleansed, rate: float) -> None:
    """One epoch with the trigger on a fifth of the images."""
    optimizer = torch.optim.SGD(list(setting.weights.values()), lr=rate, momentum=_MOMENTUM)
    chance = np.random.default_rng(setting.seed)
    for images, labels in setting.batches(1, _BATCH, setting.clean_set.fit):
        stamped = torch.from_numpy(chance.random(len(images)) < _STAMPED)[:, None, None, None]
        carried = (1 - trigger.mask) * images + trigger.mask * trigger.pattern
        logits = setting.classifier.logits(torch.where(stamped, carried, images), rewrite=setting.rewrite)
        optimizer.zero_grad()
        cross_entropy(logits, labels).backward()
        optimizer.step()
