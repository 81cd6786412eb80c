# SPDX-License-Identifier: Apache-2.0
"""The weights of an ONNX graph as parameters in PyTorch, and back into the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from patcher.calibrate.augmentation import apply_all, mirror, shift
from patcher.calibrate.classifier import Classifier
from patcher.calibrate.none.reinitialization import as_rewrite
from patcher.data.clean_set import CleanSet, Indices
from patcher.graph.sites import find_sites
from patcher.graph.weight_channels import Layer, find_layers
from patcher.model.model import Model

_CHECK_BATCH = 250
EPSILON = 0.01  # of accuracy on held-out images: what a peer may cost where it has something to choose


@dataclass
class Setting:
    """What a peer gets.

    Attributes:
        classifier: The model.
        clean_set: The clean images; peers train on all of them, unless they have something to decide.
        layers: Its layers with weights.
        weights: By initializer name, leaves that take gradients: weights, biases, scales and shifts.
        seed: Of everything random.
    """

    classifier: Classifier
    clean_set: CleanSet
    layers: tuple[Layer, ...]
    weights: dict[str, Tensor]
    seed: int

    @property
    def rewrite(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """The present weights for `Classifier.logits`."""
        return as_rewrite(self.weights)

    def batches(
        self, epochs: int, size: int, indices: Indices | None = None, *, augment: bool = True
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Every epoch all clean images (or `indices`) in a new order, mirrored and moved as is usual for CIFAR."""
        indices = self.clean_set.everything if indices is None else indices
        order, chance = np.random.default_rng(self.seed).spawn(2)
        changes = (mirror, shift) if augment else ()
        for _ in range(epochs):
            shuffled = order.permutation(indices)
            for part in np.array_split(shuffled, max(1, round(len(shuffled) / size))):
                images = self.classifier.tensor(self.clean_set.images(part))
                yield apply_all(changes, images, chance), torch.from_numpy(self.clean_set.labels[part])

    @torch.no_grad()
    def accuracy(self, indices: Indices, rewrite: dict[str, Callable[[Tensor], Tensor]] | None = None) -> float:
        """With the present weights, or with what `rewrite` says."""
        rewrite = self.rewrite if rewrite is None else rewrite
        hits = self.classifier.hits(self.clean_set, indices, batch_size=_CHECK_BATCH, rewrite=rewrite)
        return float(hits.float().mean())

    def held_out(self) -> float:
        """Accuracy on held-out images with the present weights."""
        return self.accuracy(self.clean_set.deciding)

    def copied(self) -> dict[str, Tensor]:
        """The present weights."""
        return {name: value.detach().clone() for name, value in self.weights.items()}

    @torch.no_grad()
    def put(self, weights: Mapping[str, Tensor]) -> None:
        """Other values in the place of the present weights."""
        for name, value in self.weights.items():
            value.copy_(weights[name])

    def write(self, path: Path) -> None:
        """The model with the present weights."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.classifier.model.proto)
        for tensor in proto.graph.initializer:
            if tensor.name in self.weights:
                value = self.weights[tensor.name].detach().numpy()
                tensor.CopyFrom(numpy_helper.from_array(value.astype(numpy_helper.to_array(tensor).dtype), tensor.name))
        onnx.save(proto, path)


def train_largest(setting: Setting, values: Sequence[float], train: Callable[[float], None], wanted: float) -> float:
    """Train with the largest of these values that leaves an accuracy on held-out images; give the value.

    Args:
        setting: Its weights are trained, every time from where they are now.
        values: A radius or a learning rate, the largest first; the last is taken where none leaves it.
        train: Trains with a value, not on held-out images.
        wanted: The accuracy.
    """
    given = setting.copied()
    for value in values:
        setting.put(given)
        train(value)
        if setting.held_out() >= wanted:
            break
    return value


def make_setting(classifier: Classifier, clean_set: CleanSet, seed: int) -> Setting:
    """All weights, biases, scales and shifts of the model's layers, as they are."""
    model: Model = classifier.model
    layers = find_layers(model, [site for site in find_sites(model) if site.kind == "channel"])
    weights = [layer.weight.initializer if layer.weight else layer.site.weight for layer in layers]
    names = [*weights, *(name for layer in layers for name in (layer.scale, layer.shift))]
    given = classifier.graph.initializers
    kept = {name: given[name] for name in dict.fromkeys(names) if name in given and given[name].is_floating_point()}
    trained = {name: value.float().clone().requires_grad_() for name, value in kept.items()}
    return Setting(classifier, clean_set, layers, trained, seed)
