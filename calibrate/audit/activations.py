# SPDX-License-Identifier: Apache-2.0
"""One number a neuron and training image: the largest pre-activation over the picture.

A trigger is somewhere in the picture, so a channel's value is its maximum over all positions. The numbers
are kept in an unnamed temporary file, mapped into memory: what has to fit there is a batch of activations,
however many images the training set has. A killed run leaves nothing behind.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from patcher.calibrate.classifier import Classifier, Rewrite
from patcher.calibrate.rows import row_tensors
from patcher.calibrate.run import Run
from patcher.data.clean_set import CleanSet, Indices
from patcher.graph.site import Site


@dataclass(frozen=True)
class Neuron:
    """One channel of a site.

    Attributes:
        tensor: The pre-activation: output of the linear operator, or of the BatchNormalization behind it.
        channel: Place on the channel axis.
    """

    tensor: str
    channel: int


@dataclass(frozen=True)
class Maxima:
    """What `stream_maxima` found.

    Attributes:
        neurons: One a row.
        values: float32 ``(neurons, N)``, mapped from a file; columns of images not asked for are 0.
        probabilities: float32 ``(N, K)``, mapped from a file.
    """

    neurons: tuple[Neuron, ...]
    values: NDArray[np.float32]
    probabilities: NDArray[np.float32]


def pre_activation(site: Site) -> str:
    """The tensor of a channel site just before the non-linearity."""
    return site.normalization or site.tensor


def judged_sites(classifier: Classifier, sites: Sequence[Site], training_set: CleanSet) -> tuple[Site, ...]:
    """The sites whose values belong to one image each."""
    kept = row_tensors(classifier, training_set, [pre_activation(site) for site in sites])
    return tuple(site for site in sites if pre_activation(site) in kept)


@torch.no_grad()
def stream_maxima(
    run: Run,
    sites: Sequence[Site],
    training_set: CleanSet,
    images: Indices,
    *,
    rewrite: Rewrite | None = None,
    description: str = "none: read activations",
) -> Maxima:
    """Run `images` through the model and keep each neuron's maximum.

    Args:
        run: Of the audit.
        sites: Channel sites.
        training_set: The training set.
        images: Indices into it.
        rewrite: Present weights.
        description: What is shown as progress.
    """
    classifier, size = run.classifier, run.batch_size
    neurons = tuple(Neuron(pre_activation(site), channel) for site in sites for channel in range(site.channels))
    values = _mapped(len(neurons), len(training_set))
    probabilities = _mapped(len(training_set), classifier.model.num_classes)
    names = [pre_activation(site) for site in sites]
    for start in range(0, len(images), size):
        chosen = images[start : start + size]
        found = classifier.run(classifier.tensor(training_set.images(chosen)), fetch=names, rewrite=rewrite)
        rows = []
        for site, name in zip(sites, names, strict=True):
            value = found[name]
            axes = tuple(axis for axis in range(1, value.ndim) if axis != site.channel_axis)
            rows.append((value.amax(axes) if axes else value).T)
        values[:, chosen] = torch.cat(rows).float().cpu().numpy()
        logits = classifier.as_logits(found[classifier.model.logits])
        probabilities[chosen] = logits.softmax(dim=1).float().cpu().numpy()
        run.progress(description, min(start + size, len(images)), len(images))
    return Maxima(neurons, values, probabilities)


def _mapped(rows: int, columns: int) -> NDArray[np.float32]:
    """Zeros in a temporary file that has no name, and is gone with the process."""
    with tempfile.TemporaryFile(prefix="patcher-") as file:
        return np.memmap(file, np.float32, "w+", shape=(rows, columns))
