# SPDX-License-Identifier: Apache-2.0
"""Run-time detectors of the literature, from their papers, over this project's interpreter; for comparison alone.

    strip     Gao et al., "STRIP: A Defence Against Trojan Attacks on Deep Neural Networks", ACSAC 2019
    ibd_psc   Hou et al., "IBD-PSC: Input-level Backdoor Detection via Parameter-oriented Scaling Consistency",
              ICML 2024

Both give one score an image, float32 `(N,)`; the larger, the more it looks triggered. Where BatchNormalization was
folded away, the output of the convolution it went into is scaled, which is the same: omega * (gamma x + beta).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from patcher.calibrate.classifier import Classifier, Rewrite
from patcher.data.clean_set import CleanSet

Scores = NDArray[np.float32]
Images = NDArray[np.float32]

_BATCH = 128
_OVERLAYS = 10
_SCALE = 1.5  # omega of IBD-PSC
_MODELS = 5  # n
_ERROR = 0.6  # xi
IBD_PSC_THRESHOLD = 0.9  # T of the paper


class Strip:
    """Entropy of the answers to the image with clean ones laid over it; a trigger that wins every time has little.

    Args:
        classifier: The model.
        clean_set: Clean images; the overlays come from *fit*.
        seed: Of the choice of overlays.
    """

    def __init__(self, classifier: Classifier, clean_set: CleanSet, *, seed: int = 0) -> None:
        chosen = np.random.default_rng(seed).choice(clean_set.fit, _OVERLAYS, replace=False)
        self._classifier, self._overlays = classifier, clean_set.images(chosen)

    def __call__(self, images: Images) -> Scores:
        """Minus the mean entropy over the overlays, nats."""
        entropies = []
        for overlay in self._overlays:
            probabilities = _probabilities(self._classifier, np.clip(images + overlay, 0, 1))
            entropies.append(-(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(axis=1))
        return np.asarray(-np.mean(entropies, axis=0), np.float32)


class IbdPsc:
    """Confidence of the answer while the parameters of the last layers are scaled up.

    Args:
        classifier: The model.
        clean_set: Clean images; the held-out ones say at how many layers the scaling begins.

    Attributes:
        first: Layers scaled in the first of the models.
    """

    def __init__(self, classifier: Classifier, clean_set: CleanSet) -> None:
        self._classifier, layers = classifier, scaled_layers(classifier)
        images, labels = clean_set.images(clean_set.held_out), clean_set.labels[clean_set.held_out]
        self.first = len(layers)
        for count in range(1, len(layers) + 1):
            found = _probabilities(classifier, images, _scaled(layers[-count:])).argmax(axis=1)
            if (found != labels).mean() > _ERROR:
                self.first = count
                break
        counts = range(self.first, min(self.first + _MODELS, len(layers) + 1))
        self._rewrites = [_scaled(layers[-count:]) for count in counts]

    def __call__(self, images: Images) -> Scores:
        """Mean confidence in the unscaled model's class."""
        rows, classes = np.arange(len(images)), _probabilities(self._classifier, images).argmax(axis=1)
        found = [_probabilities(self._classifier, images, rewrite)[rows, classes] for rewrite in self._rewrites]
        return np.asarray(np.mean(found, axis=0), np.float32)


def scaled_layers(classifier: Classifier) -> list[str]:
    """Tensors that a BatchNormalization makes, or made before it was folded: convolutions with a bias."""
    nodes = classifier.model.proto.graph.node
    normalized = {node.input[0] for node in nodes if node.op_type == "BatchNormalization"}
    return [
        node.output[0]
        for node in nodes
        if node.op_type == "BatchNormalization"
        or (node.op_type == "Conv" and len(node.input) > 2 and node.output[0] not in normalized)
    ]


def _scaled(layers: Sequence[str]) -> Rewrite:
    return dict.fromkeys(layers, _times)


def _times(value: torch.Tensor) -> torch.Tensor:
    return value * _SCALE


@torch.no_grad()
def _probabilities(classifier: Classifier, images: Images, rewrite: Rewrite | None = None) -> Scores:
    """Class probabilities `(N, K)`."""
    parts = [
        classifier.logits(classifier.tensor(np.ascontiguousarray(images[start : start + _BATCH])), rewrite=rewrite)
        for start in range(0, len(images), _BATCH)
    ]
    found: Scores = torch.cat(parts).softmax(dim=1).cpu().numpy()
    return found


Detector = Callable[[Images], Scores]
