# SPDX-License-Identifier: Apache-2.0
"""Neural Cleanse with unlearning.

Wang et al., "Neural Cleanse", S&P 2019, sections IV and VI-B: the smallest mask of every class; a class whose norm lies
more than two deviations of the median under it is the attacker's (anomaly index above 2); then the model is trained for
one epoch on the clean images with that trigger on a fifth of them, under their right labels. Where no class stands out
nothing is changed. A class that is not reached counts with the whole picture.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from benchmarks.neural_cleanse import neural_cleanse
from benchmarks.peers.weights import Setting

_EPOCHS, _RATE, _MOMENTUM, _BATCH, _STAMPED = 20, 0.01, 0.9, 32, 0.2
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
    optimizer = torch.optim.SGD(list(setting.weights.values()), lr=_RATE, momentum=_MOMENTUM)
    chance = np.random.default_rng(setting.seed)
    for images, labels in setting.batches(1, _BATCH):
        stamped = torch.from_numpy(chance.random(len(images)) < _STAMPED)[:, None, None, None]
        carried = (1 - smallest.mask) * images + smallest.mask * smallest.pattern
        logits = setting.classifier.logits(torch.where(stamped, carried, images), rewrite=setting.rewrite)
        optimizer.zero_grad()
        cross_entropy(logits, labels).backward()
        optimizer.step()
