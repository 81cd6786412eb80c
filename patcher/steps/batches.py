# SPDX-License-Identifier: Apache-2.0
"""How many images are run at a time: as many as were asked for, or as many as memory bears.

A ResNet-50 keeps about 130 MiB of activations an image at 224 pixels; 128 of them and their gradients are no
default. A mini-batch that nobody asked for is cut to half of that, down to 8 images: the gradient of 64 large
pictures costs eight times that of 8. Models with small activations keep every default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from patcher.data.image_sources import Pixels
from patcher.model.activations import activation_bytes
from patcher.model.model import Model

# Not tuned: leaves room for the rest on a machine with 8 GiB.
_ACTIVATIONS = 3 * 2**30
# Beside the activations that the backward pass needs, some of their gradients are alive.
_WITH_GRADIENTS = 1.5
_SMALLEST_MINIBATCH = 8


def fitting_batch(model: Model, pixels: Pixels, batch_size: int) -> int:
    """The largest batch, `batch_size` at most, whose activations and gradients fit the memory.

    Args:
        model: The classifier.
        pixels: Images ``(N, C, H, W)``, or arrays; their size counts where the model leaves it open.
        batch_size: As it was asked for.
    """
    per_image = _WITH_GRADIENTS * activation_bytes(model, pixels.shape[1:])
    fits = max(1, int(_ACTIVATIONS / per_image)) if per_image else batch_size
    return min(batch_size, fits)


def fitting_options(options: Any, given: Mapping[str, Any], fits: int) -> Any:
    """A method's options with a mini-batch that fits, unless one was asked for.

    Steps of fewer images learn less each, so that fields that count steps and whose metadata say ``"follows":
    "minibatch"`` grow as it shrinks, to a tenth of all steps at most.

    Args:
        options: The method's ``Options``.
        given: What was asked for, by name.
        fits: Images whose activations fit the memory; a smaller ``--batch-size`` only cuts a mini-batch into parts.
    """
    wanted = getattr(options, "minibatch", None)
    if wanted is None or "minibatch" in given:
        return options
    minibatch = min(wanted, max(_SMALLEST_MINIBATCH, fits // 2))
    following = [part.name for part in fields(options) if part.metadata.get("follows") == "minibatch"]
    counts = {name: getattr(options, name) for name in following if name not in given}
    grown = {name: max(count, min(count * wanted // minibatch, options.steps // 10)) for name, count in counts.items()}
    return replace(options, minibatch=minibatch, **grown)
