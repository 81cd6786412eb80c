# SPDX-License-Identifier: Apache-2.0
"""Channel masks in PyTorch: what NFT fits, and what its patch says.

With y the output of a masked layer under its own weights, one mask value m a channel, and, where statistics
are re-estimated, the map ``a * y + d`` that undoes their drift:

    y'  =  m * (a * y + d) + (1 - m) * k

    plain      k = the bias (beta of a BatchNormalization): the weight times m, the bias unchanged
    centred    k = the channel's clean mean: a suppressed channel becomes constant without moving its mean

Masking the output this way equals masking the weight and costs no gradient of the weight. The map a, d
stands for new running statistics of a BatchNormalization; where that was folded away it brings the layer's
clean mean and deviation back to what they were without masks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patcher.calibrate.classifier import Classifier
from patcher.calibrate.nft.options import mask_floor
from patcher.calibrate.statistics import MomentSums
from patcher.data.clean_set import CleanSet, Indices
from patcher.errors import UnsupportedGraphError
from patcher.graph.flow import DataFlow, attribute
from patcher.graph.weight_channels import MaskLayer
from patcher.patch import Affine, Bias, Correction, MaskForm, Normalization, WeightMask

_SMALLEST_STD = 1e-6


class LayerMask:
    """One layer: its present map, as scale and shift of the raw output.

    Args:
        layer: Where.
        mask: ``(C,)``, shared by all layers of one constant.
        bias: The output with the weight at zero, ``(C,)``.
    """

    def __init__(self, layer: MaskLayer, mask: Tensor, bias: Tensor) -> None:
        self.layer, self.mask, self.bias = layer, mask, bias
        self.centre = bias
        self.scale, self.shift = torch.ones_like(bias), torch.zeros_like(bias)
        self.sums: MomentSums | None = None

    def __call__(self, value: Tensor) -> Tensor:
        """Raw output to masked output."""
        if self.sums is not None:
            self.sums.add(value, tuple(axis for axis in range(value.ndim) if axis != self.layer.channel_axis))
        factor, offset = self.mask * self.scale, self.mask * self.shift + (1 - self.mask) * self.centre
        shape = self.layer.broadcast
        return torch.addcmul(offset.view(shape), value, factor.view(shape))

    def corrections(self, running: tuple[Tensor, Tensor] | None) -> Iterator[Correction]:
        """What the patch does at this layer behind the masked constant, from `running` mean and variance."""
        mask, bias, tensor = self.mask.detach(), self.bias, self.layer.tensor
        shape = self.layer.broadcast
        if running is not None:
            yield Normalization(tensor, _array(running[0]), _array(running[1]))
            shift = (1 - mask) * (self.centre - bias)
        else:
            # Behind the masked weight stands m * (y - b) + b; a times that plus this shift is y'.
            shift = mask * self.shift + (1 - mask) * (self.centre - self.scale * bias)
        if running is None and bool((self.scale != 1).any()):
            yield Affine(tensor, _array(self.scale.view(shape)), _array(shift.view(shape)))
        elif bool((shift != 0).any()):
            yield Bias(tensor, _array(shift.view(shape)))


class Masks:
    """The masks of all layers.

    Args:
        classifier: The model.
        layers: In graph order.
        floor: mu(l), see `mask_floor`: base and decay.

    Attributes:
        parameters: One mask ``(C,)`` for each masked constant, 1 at the start.
        rewrite: For `Classifier.run`.

    Raises:
        UnsupportedGraphError: A layer's bias differs between images or places.
    """

    def __init__(self, classifier: Classifier, layers: Sequence[MaskLayer], *, floor: tuple[float, float]) -> None:
        device = classifier.device
        channels = {layer.initializer: layer.channels for layer in layers}
        self.masks = {name: torch.ones(count, device=device, requires_grad=True) for name, count in channels.items()}
        self.floors = {name: mask_floor(number, *floor) for number, name in enumerate(self.masks, start=1)}
        biases = _biases(classifier, layers)
        self.layers = tuple(LayerMask(layer, self.masks[layer.initializer], biases[layer.tensor]) for layer in layers)
        self.rewrite: Mapping[str, Callable[[Tensor], Tensor]] = {item.layer.tensor: item for item in self.layers}
        self._classifier = classifier
        self._flow = DataFlow(classifier.model.proto.graph, classifier.model.input_names)
        self._targets: dict[str, tuple[Tensor, Tensor]] = {}
        self._running: dict[str, tuple[Tensor, Tensor]] = {}

    @property
    def parameters(self) -> list[Tensor]:
        """One mask ``(C,)`` for each masked constant: what the optimiser moves."""
        return list(self.masks.values())

    @torch.no_grad()
    def clamp(self) -> None:
        """Keep every mask between its floor and 1."""
        for name, mask in self.masks.items():
            mask.clamp_(self.floors[name], 1)

    def suppression(self) -> Tensor:
        """``||1 - M||_1`` over all channels."""
        return torch.stack([(1 - mask).abs().sum() for mask in self.masks.values()]).sum()

    def mean(self) -> float:
        """Mean mask over all channels."""
        return float(torch.cat(self.parameters).detach().mean())

    def centre(self, clean_set: CleanSet, indices: Indices, batch_size: int) -> None:
        """Let suppressed channels fall back to their clean mean instead of the bias."""
        for item, (mean, _) in zip(self.layers, self._measure(clean_set, indices, batch_size), strict=True):
            item.centre = mean

    def keep_statistics(self, clean_set: CleanSet, indices: Indices, batch_size: int) -> None:
        """Take the present statistics as those that `reestimate` comes back to."""
        for item, (mean, std) in zip(self.layers, self._measure(clean_set, indices, batch_size), strict=True):
            self._targets[item.layer.tensor] = (mean, std)

    def reestimate(self, clean_set: CleanSet, indices: Indices, batch_size: int) -> None:
        """Re-estimate the statistics of all layers over clean images, under the present masks.

        One pass: every layer sees what the earlier ones made of their last statistics. Repeated between the
        optimiser's steps it settles.
        """
        for item, (mean, std) in zip(self.layers, self._measure(clean_set, indices, batch_size), strict=True):
            if item.layer.normalization is not None:
                self._renormalize(item, mean, std)
            else:
                wanted, spread = self._targets[item.layer.tensor]
                item.scale = torch.where(std > _SMALLEST_STD, spread / std.clamp_min(_SMALLEST_STD), 1.0)
                item.shift = wanted - item.scale * mean

    def statistics(self) -> list[Tensor]:
        """Scale and shift of every layer, and running statistics: what `reestimate` sets, to be kept and put back."""
        own = [value for item in self.layers for value in (item.scale, item.shift)]
        return own + [value for pair in self._running.values() for value in pair]

    def set_statistics(self, values: Sequence[Tensor]) -> None:
        """Put back what `statistics` gave."""
        pairs = list(zip(values[::2], values[1::2], strict=True))
        for item, (scale, shift) in zip(self.layers, pairs, strict=False):
            item.scale, item.shift = scale, shift
        self._running = dict(zip(self._running, pairs[len(self.layers) :], strict=True))

    def corrections(self, form: MaskForm) -> tuple[Correction, ...]:
        """The corrections of all layers, in graph order."""
        found: list[Correction] = []
        for item in self.layers:
            name = item.layer.initializer
            if not any(isinstance(other, WeightMask) and other.initializer == name for other in found):
                found.append(WeightMask(name, item.layer.weight_mask(_array(item.mask.detach())), form))
            found += item.corrections(self._running.get(item.layer.tensor))
        return tuple(found)

    @torch.no_grad()
    def _measure(self, clean_set: CleanSet, indices: Indices, batch_size: int) -> list[tuple[Tensor, Tensor]]:
        """Mean and standard deviation ``(C,)`` of each layer's raw output over clean images."""
        for item in self.layers:
            item.sums = MomentSums()
        for images, _ in self._classifier.batches(clean_set, indices, batch_size):
            self._classifier.run(images, rewrite=self.rewrite)
        found = []
        for item in self.layers:
            sums, item.sums = item.sums or MomentSums(), None
            moments = sums.moments()
            found.append((moments.mean.flatten().float(), moments.std.flatten().float()))
        return found

    def _renormalize(self, item: LayerMask, mean: Tensor, std: Tensor) -> None:
        """New running statistics from the moments of the output ``gamma * (x - mu) / s + beta`` under the old."""
        node = item.layer.normalization
        values = [self._flow.value(name) for name in node.input[1:5]] if node is not None else []
        if node is None or any(value is None for value in values):
            return
        gamma, beta, old_mean, old_var = (torch.from_numpy(np.asarray(value, np.float64)).to(mean) for value in values)
        epsilon = float(attribute(node, "epsilon", 1e-5))
        old_std = (old_var + epsilon).sqrt()
        slope = gamma / old_std
        live = gamma.abs() > _SMALLEST_STD
        safe = torch.where(live, slope, 1.0)
        new_mean = torch.where(live, (mean - beta) / safe + old_mean, old_mean)
        new_var = torch.where(live, (std / safe).square(), old_var)
        item.scale = old_std / (new_var + epsilon).sqrt()
        item.shift = beta - item.scale * (beta + slope * (new_mean - old_mean))
        self._running[item.layer.tensor] = (new_mean, new_var)


@torch.no_grad()
def _biases(classifier: Classifier, layers: Sequence[MaskLayer]) -> dict[str, Tensor]:
    """Each layer's output with its constant at zero, ``(C,)``, whatever the operator makes its bias of."""
    zero = {layer.initializer: torch.zeros_like for layer in layers}
    values = classifier.run(classifier.blank(), fetch=[layer.tensor for layer in layers], rewrite=zero)
    biases = {}
    for layer in layers:
        value = values[layer.tensor].float().movedim(layer.channel_axis, 0).reshape(layer.channels, -1)
        if not bool(torch.equal(value.amin(dim=1), value.amax(dim=1))):
            raise UnsupportedGraphError(f"the bias of {layer.tensor!r} differs between places; a mask cannot keep it")
        biases[layer.tensor] = value[:, 0].clone()
    return biases


def _array(value: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = value.detach().float().cpu().numpy()
    return array
