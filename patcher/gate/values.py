# SPDX-License-Identifier: Apache-2.0
"""Can the corrections of a file come from a calibration? Their places and their values.

A file that is made again byte for byte may still hold any correction that the edits can make. A calibration acts at
the sites of the graph alone, never on the class scores, and with one value a channel (bounds may be one an element).
What is left after that are numbers in a range; whether they are good ones is a question of behaviour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from patcher.errors import UnsupportedGraphError
from patcher.graph.flow import DataFlow
from patcher.graph.sites import find_sites, head_tensors
from patcher.graph.weight_channels import mask_layers
from patcher.model.model import Model
from patcher.patch import (
    Affine,
    Bias,
    Branch,
    Correction,
    Flag,
    MeanBound,
    Normalization,
    Part,
    Realignment,
    UpperBound,
    Watch,
    WeightMask,
    Weights,
    flat_corrections,
)

_LARGEST_SURPRISE = 1e3  # in nats; a score of 30 is one clean image in ten thousand billion
_LARGEST = 1e6  # of a scale or shift: calibrated ones are far below, and 1e6 drowns any activation

_Shape = tuple[int, ...]


@dataclass(frozen=True)
class _Places:
    """Where a calibration may act.

    Attributes:
        activations: Activation sites: shape of a value a channel, by tensor.
        channels: All sites, and the BatchNormalizations behind them: the same.
        weights: Shape of a mask by constant.
    """

    activations: Mapping[str, _Shape]
    channels: Mapping[str, _Shape]
    weights: Mapping[str, _Shape]


def value_fault(model: Model, corrections: Sequence[Correction], *, weights: bool) -> str:
    """Why corrections cannot come from a calibration; empty where they can.

    Args:
        model: The original.
        corrections: What was found in the hardened file, or in its patch.
        weights: Whether other values of whole weights are explained, by a patch or by the policy.
    """
    try:
        places = _places(model)
    except UnsupportedGraphError as error:
        return f"the original has no sites: {error}"
    for item in flat_corrections(corrections):
        if reason := _out_of_place(item, places) or _out_of_range(item):
            name = str(getattr(item, "tensor", "") or getattr(item, "initializer", ""))
            return f"{reason} at {name[:80]!r}"
    whole = [item for item in corrections if isinstance(item, Weights)]
    if whole and not weights:
        return (
            f"{len(whole)} weights have other values, which nothing but the patch tells from tampering: "
            "give --patch, or accept it with weights = true in the policy's [accept]"
        )
    return _without_effect(corrections)


def _places(model: Model) -> _Places:
    sites = find_sites(model)
    head = head_tensors(model.logits, DataFlow(model.proto.graph, model.input_names))
    activations: dict[str, _Shape] = {}
    channels: dict[str, _Shape] = {}
    for site in sites:
        rank = len(site.shape)
        shape = tuple(site.channels if axis == site.channel_axis else 1 for axis in range(rank))
        if site.kind == "activation":
            activations[site.tensor] = shape
        channels[site.tensor] = shape
        if site.normalization is not None:
            channels[site.normalization] = tuple(site.channels if axis == 1 else 1 for axis in range(rank))
    linear = [site for site in sites if site.kind == "channel"]
    # A mask may act on the scale of a BatchNormalization, or on the weight before it.
    choices = (
        mask_layers(model, linear)[0],
        mask_layers(model, [replace(site, normalization=None) for site in linear])[0],
    )
    masks = {layer.initializer: layer.index.shape for layers in choices for layer in layers}
    return _Places(activations, {name: shape for name, shape in channels.items() if name not in head}, masks)


def _out_of_place(item: Correction | Part, places: _Places) -> str:
    """Why a correction stands where no method acts, or has a shape that none has."""
    match item:
        case UpperBound(tensor, values) | Watch(tensor, _, _, values):
            if tensor not in places.activations:
                return "a bound where no activation is"
            return "" if values.ndim == 0 or values.shape[0] == 1 else "a bound that is not the same for all images"
        case MeanBound(tensor, values):
            return "" if values.shape == places.activations.get(tensor) else "a bound on means where no activation is"
        case Affine(tensor, values, shift):
            return _a_channel(places.channels.get(tensor), values.shape, shift.shape)
        case Bias(tensor, values):
            return _a_channel(places.channels.get(tensor), values.shape)
        case Realignment(tensor, scale, shift, upper, lower):
            shape = places.channels.get(tensor)
            rows = None if shape is None else (scale.shape[0], *shape[1:])
            return _a_channel(rows, *(part.shape for part in (scale, shift, upper, lower)))
        case WeightMask(initializer, values):
            if initializer not in places.weights:
                return "a mask on what is no weight of a layer"
            # Where all values are one, any axis may have been read.
            same = values.shape == places.weights[initializer] or (values == values.ravel()[:1]).all()
            return "" if same else "a mask with more than one value a channel"
    return ""


def _a_channel(wanted: _Shape | None, *found: _Shape) -> str:
    if wanted is None:
        return "a correction where no layer is, or on the class scores"
    return "" if all(shape == wanted for shape in found) else "other than one value a channel"


def _out_of_range(item: Correction | Part) -> str:
    """Why the values of a correction are impossible for its kind."""
    match item:
        case UpperBound(_, bound) if np.isnan(bound).any() or np.isneginf(bound).any():
            return "an upper bound that is no number"
        case MeanBound(_, bound) if not (np.isfinite(bound).all() and (bound > 0).all()):
            return "a bound on a mean that is no positive number"
        case WeightMask(_, mask) if not (np.isfinite(mask).all() and (mask >= 0).all() and (mask <= 1).all()):
            return "a mask outside of 0 to 1"
        case Bias(_, shift) if not (np.abs(shift) <= _LARGEST).all():
            return "a shift beyond any activation"
        case Affine(_, scale, shift) if not ((np.abs(scale) <= _LARGEST).all() and (np.abs(shift) <= _LARGEST).all()):
            return "a scale or shift beyond any activation"
        case Normalization(_, mean, var) if not (
            np.isfinite(mean).all() and np.isfinite(var).all() and (var >= 0).all()
        ):
            return "statistics that are none"
        case Realignment(_, scale, shift, upper, lower):
            finite = (np.abs(scale) <= _LARGEST).all() and (np.abs(shift) <= _LARGEST).all()
            return "" if finite and (lower <= upper).all() else "a realignment that no images give"
        case Watch(_, mean, _, bound) if np.isneginf(bound).any() or not (np.abs(mean) <= _LARGEST).all():
            return "a usual value or a bound that no images give"
        case Weights(_, value) if not np.isfinite(value.astype(np.float64)).all():
            return "a weight that is not finite"
    return ""


def _without_effect(corrections: Sequence[Correction]) -> str:
    """Why corrections of the right places and ranges do nothing at all; empty where they may do something."""
    for item in corrections:
        if isinstance(item, Flag) and not max(abs(item.gate), abs(item.threshold)) <= _LARGEST_SURPRISE:
            return f"a flag that never fires: threshold {item.threshold:.3g}, gate {item.gate:.3g}"
        if isinstance(item, Branch) and all(_is_identity(part) for part in item.corrections):
            return "a second pass that is the first one again"
    bounds = [item.bound for item in corrections if isinstance(item, UpperBound)]
    if bounds and not any((bound <= _LARGEST).any() for bound in bounds):
        return "no upper bound is within the reach of any activation"
    return ""


def _is_identity(part: Realignment) -> bool:
    open_ends = (part.upper >= _LARGEST).all() and (part.lower <= -_LARGEST).all()
    return bool((part.scale == 1).all() and (part.shift == 0).all() and open_ends)
