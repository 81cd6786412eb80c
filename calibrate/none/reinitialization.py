# SPDX-License-Identifier: Apache-2.0
"""Start compromised neurons anew (NONE, Sec. 4).

    weight row      drawn as He et al. (ICCV 2015): normal, std sqrt(2 / fan-in)
    then            scale and shift such that the channel keeps its mean and standard deviation over benign images

The second step is data-dependent initialisation (Mishkin and Matas, ICLR 2016): BatchNormalization statistics
stay frozen, and without it a fresh row would come out in a scale that the next layer does not know. It goes
into gamma and beta where a BatchNormalization follows, else into the row and the bias; a layer without bias
keeps the standard deviation only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from patcher.calibrate.audit.activations import Neuron, pre_activation
from patcher.calibrate.classifier import Classifier
from patcher.calibrate.statistics import Moments, stream_moments
from patcher.data.clean_set import CleanSet, Indices
from patcher.graph.weight_channels import Layer

_SMALLEST_STD = 1e-6
_LARGEST_SHARE = 1 / 8  # of a layer (chosen, not measured): what is left has to carry the other images


def as_rewrite(parameters: Mapping[str, Tensor]) -> dict[str, Callable[[Tensor], Tensor]]:
    """Present weights in place of the graph's own, for `Classifier.run`."""

    def replaced(value: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda _: value

    return {name: replaced(value) for name, value in parameters.items()}


@torch.no_grad()
def reinitialize(
    classifier: Classifier,
    layers: Sequence[Layer],
    parameters: Mapping[str, Tensor],
    neurons: Sequence[Neuron],
    training_set: CleanSet,
    benign: Indices,
    *,
    batch_size: int,
    rng: np.random.Generator,
) -> int:
    """Reset `neurons` in place.

    Args:
        classifier: The model.
        layers: Of all channel sites.
        parameters: Present weights by initializer name; changed in place.
        neurons: What to reset, the most urgent first; at most an eighth of a layer's channels.
        training_set: The training set.
        benign: Indices of benign images for the moments.
        batch_size: Images in memory at a time.
        rng: Of the new weights.

    Returns:
        How many neurons were reset; those of a layer without a weight of its own stay.
    """
    rewrite = as_rewrite(parameters)
    done = 0
    for layer in layers:
        tensor = pre_activation(layer.site)
        named = list(dict.fromkeys(neuron.channel for neuron in neurons if neuron.tensor == tensor))
        channels = sorted(named[: math.ceil(_LARGEST_SHARE * layer.site.channels)])
        if not channels or layer.weight is None or layer.weight.initializer not in parameters:
            continue

        looked_at = [replace(layer.site, tensor=tensor)]

        def moments() -> Moments:
            batches = classifier.batches(training_set, benign, batch_size)
            return stream_moments(classifier, looked_at, batches, rewrite=rewrite)[looked_at[0].tensor]  # noqa: B023

        before = moments()
        _draw(layer, parameters, channels, rng)
        _keep_moments(layer, parameters, channels, before, moments())
        done += len(channels)
    return done


def _draw(layer: Layer, parameters: Mapping[str, Tensor], channels: Sequence[int], rng: np.random.Generator) -> None:
    """New rows of the weight; gamma 1, beta or bias 0."""
    if layer.weight is None:
        return
    weight = parameters[layer.weight.initializer]
    index = np.broadcast_to(layer.weight.index, tuple(weight.shape))
    for channel in channels:
        place = torch.from_numpy(index == channel).to(weight.device)
        fan_in = int(place.sum())
        weight[place] = torch.from_numpy(rng.normal(0, np.sqrt(2 / fan_in), fan_in)).to(weight)
        for name, value in ((layer.scale, 1.0), (layer.shift, 0.0)):
            if name in parameters:
                parameters[str(name)].view(-1)[channel] = value


def _keep_moments(
    layer: Layer, parameters: Mapping[str, Tensor], channels: Sequence[int], before: Moments, after: Moments
) -> None:
    if layer.weight is None:
        return
    weight = parameters[layer.weight.initializer]
    index = np.broadcast_to(layer.weight.index, tuple(weight.shape))
    for channel in channels:
        std = float(after.std.flatten()[channel])
        factor = float(before.std.flatten()[channel]) / std if std > _SMALLEST_STD else 1.0
        if layer.scale in parameters:
            parameters[str(layer.scale)].view(-1)[channel] *= factor
        else:
            weight[torch.from_numpy(index == channel).to(weight.device)] *= factor
        if layer.shift in parameters:
            shift = float(before.mean.flatten()[channel]) - factor * float(after.mean.flatten()[channel])
            parameters[str(layer.shift)].view(-1)[channel] = shift
