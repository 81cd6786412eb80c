# SPDX-License-Identifier: Apache-2.0
"""Compromised neurons and the images that drive them, label by label (NONE, Sec. 4).

Poisoned images carry the attacker's label: among the images of that label they are a second group. So each
label is looked at by itself, which also finds attacks with several targets (all-to-all).

Two criteria: ``linearity`` is the paper's test as in `patcher.calibrate.audit.split`: nothing compromised,
nothing suspected. ``ranking`` is the authors' code: in each layer the share `top` of channels with the
largest ``max(value | p_k > 0.9) - [mean + 3 std](value | p_k < 0.1)`` is always taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patcher.calibrate.audit.activations import Maxima, Neuron
from patcher.calibrate.audit.options import Criterion
from patcher.calibrate.audit.split import Split, compromised, distances, split_in_two
from patcher.data.clean_set import Indices

_ROWS = 256  # neurons in memory at a time
_SURE, _UNSURE = 0.9, 0.1


@dataclass(frozen=True)
class Thresholds:
    """What makes a neuron compromised and an image suspected.

    Attributes:
        criterion: How neurons are chosen.
        separability: Least share of the variance between the two groups.
        theta: Least share of the upper group on one linear piece.
        z: lambda, standard deviations from the benign group.
        neurons: Neurons a label at most, those of the largest separability.
        top: Share of a layer's channels that ``ranking`` takes.
        least_images: Labels with fewer images are not judged.
    """

    criterion: Criterion
    separability: float
    theta: float
    z: float
    neurons: int
    top: float
    least_images: int = 20


@dataclass(frozen=True)
class LabelGroup:
    """What was found among the images of one label.

    Attributes:
        label: The label.
        neurons: Compromised neurons, most separable first.
        separability: One value a neuron.
        members: All images of the label that were looked at.
        distances: ``(neurons, members)``, standard deviations from the benign group.
        z: lambda.
        flips: Share of the suspects that lose the label under bounds, and of the other members; ``None``
            while not asked.
    """

    label: int
    neurons: tuple[Neuron, ...]
    separability: NDArray[np.float64]
    members: Indices
    distances: NDArray[np.float64]
    z: float
    flips: tuple[float, float] | None = None

    @property
    def scores(self) -> NDArray[np.float64]:
        """One score a member: the median over the neurons."""
        return np.asarray(np.median(self.distances, axis=0))

    @property
    def suspects(self) -> Indices:
        """Images whose score reaches lambda."""
        return self.members[self.scores >= self.z]

    @property
    def others(self) -> Indices:
        """The members that are not suspected."""
        return self.members[self.scores < self.z]


def find_groups(
    maxima: Maxima, labels: NDArray[np.int64], images: Indices, thresholds: Thresholds
) -> tuple[LabelGroup, ...]:
    """Look for compromised neurons and suspects under every label.

    Args:
        maxima: One number a neuron and image.
        labels: int64 ``(N,)``.
        images: Indices of the images to look at.
        thresholds: What is compromised and suspected.

    Returns:
        Labels with at least one suspect, ascending.
    """
    groups = []
    for label in np.unique(labels[images]):
        members = images[labels[images] == label]
        if len(members) >= thresholds.least_images:
            group = _group(maxima, int(label), members, images, thresholds)
            if group is not None and len(group.suspects):
                groups.append(group)
    return tuple(groups)


def _group(maxima: Maxima, label: int, members: Indices, images: Indices, thresholds: Thresholds) -> LabelGroup | None:
    found: list[tuple[float, int]] = []
    ranked = _ranked(maxima, label, images, thresholds.top) if thresholds.criterion == "ranking" else None
    for first, values, split in _splits(maxima, members):
        passed = compromised(split, separability=thresholds.separability, theta=thresholds.theta)
        if ranked is not None:
            passed = ranked[first : first + len(values)]
        found += [(float(split.separability[row]), first + int(row)) for row in np.flatnonzero(passed)]
    if not found:
        return None
    best = sorted(found, key=lambda item: (-item[0], item[1]))[: thresholds.neurons]
    rows = [row for _, row in best]
    values = np.asarray(maxima.values[rows][:, members], np.float64)
    return LabelGroup(
        label=label,
        neurons=tuple(maxima.neurons[row] for row in rows),
        separability=np.array([value for value, _ in best]),
        members=members,
        distances=distances(values, split_in_two(values)),
        z=thresholds.z,
    )


def _splits(maxima: Maxima, members: Indices) -> Iterator[tuple[int, NDArray[np.float32], Split]]:
    """Rows a few at a time: the first row's place, values ``(rows, members)``, their splits."""
    for first in range(0, len(maxima.neurons), _ROWS):
        values = maxima.values[first : first + _ROWS][:, members]
        yield first, values, split_in_two(values)


def _ranked(maxima: Maxima, label: int, images: Indices, top: float) -> NDArray[np.bool_]:
    """The authors' ranking: the largest excess in each layer, bool ``(neurons,)``."""
    probability = maxima.probabilities[images, label]
    sure, unsure = images[probability > _SURE], images[probability < _UNSURE]
    chosen = np.zeros(len(maxima.neurons), np.bool_)
    if not len(sure) or not len(unsure):
        return chosen
    tensors = np.array([neuron.tensor for neuron in maxima.neurons])
    for tensor in np.unique(tensors):
        rows = np.flatnonzero(tensors == tensor)
        low = maxima.values[rows][:, unsure].astype(np.float64)
        excess = maxima.values[rows][:, sure].max(axis=1) - (low.mean(axis=1) + 3 * low.std(axis=1))
        chosen[rows[np.argsort(-excess, kind="stable")[: max(1, round(top * len(rows)))]]] = True
    return chosen
