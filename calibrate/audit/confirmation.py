# SPDX-License-Identifier: Apache-2.0
"""What the suspects' label rests on: the test that tells a trigger from a second kind of picture.

Two groups under one label can be natural (two kinds of cars). The difference is what happens when no neuron
may leave the range of all the other training images, ``min(value, mean + d std)`` per channel, with the
smallest d of a few at which the other images keep their labels:

    natural     the picture keeps its label as other pictures do
    poisoned    the picture is of another class; without the trigger's excess the label falls

A group is confirmed where at least `margin` more of the suspects than of the label's other images lose the
label. The answers under bounds, the attacker's label left out, are also the best guess of the true labels.

The bounds are UNIT's start (Cheng et al., ECCV 2024, Sec. 4.2), as tight as the model bears: they serve as a
question, not as a patch. When it does not hold: a trigger that stays inside the range of clean images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patcher.calibrate.audit.groups import LabelGroup
from patcher.calibrate.classifier import Classifier, Rewrite
from patcher.calibrate.statistics import Moments, stream_moments
from patcher.data.clean_set import CleanSet, Indices
from patcher.graph.site import Site

# Chosen, not measured one by one; what the audit finds with them is in docs/none.md.
_DEVIATIONS = (2.0, 2.5, 3.0, 3.5, 4.0)
_BORNE_LOSS = 0.1  # share of the other images that may lose their label
_MOMENT_IMAGES = 2048
_ASKED_IMAGES = 256


@dataclass(frozen=True)
class Verdict:
    """What was confirmed.

    Attributes:
        groups: Every label with suspects, asked; ascending.
        confirmed: Labels whose suspects are poisoned.
        suspects: Sorted indices of the confirmed labels' suspects.
        scores: One score a suspect, standard deviations from the benign group.
        true_labels: Best guess of each suspect's own class.
    """

    groups: tuple[LabelGroup, ...]
    confirmed: tuple[int, ...]
    suspects: Indices
    scores: NDArray[np.float64]
    true_labels: NDArray[np.int64]


def judge(
    classifier: Classifier,
    sites: Sequence[Site],
    training_set: CleanSet,
    images: Indices,
    groups: Sequence[LabelGroup],
    *,
    margin: float,
    batch_size: int,
    rng: np.random.Generator,
) -> Verdict:
    """Ask each group of suspects what its label rests on.

    Args:
        classifier: The model.
        sites: Where values are bounded.
        training_set: The training set.
        images: All images that were looked at.
        groups: Labels with suspects.
        margin: Share of lost labels, above that of the label's other images, that confirms a group;
            0 confirms every group.
        batch_size: Images in memory at a time.
        rng: Choice of the images for moments, and of those asked.
    """
    suspects = np.concatenate([group.suspects for group in groups]) if groups else images[:0]
    rest = np.setdiff1d(images, suspects)
    if not len(suspects) or not len(rest):
        return Verdict(tuple(groups), (), images[:0], np.empty(0), images[:0])
    bounded = _bounds(classifier, sites, training_set, _some(rest, _MOMENT_IMAGES, rng), batch_size)

    def answers(chosen: Indices, label: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return _answers(classifier, training_set, chosen, label, batch_size, bounded)

    asked, confirmed = [], []
    found: list[tuple[Indices, NDArray[np.float64], NDArray[np.int64]]] = []
    for group in groups:
        shares = tuple(
            float((answers(chosen, group.label)[0] != group.label).mean()) if len(chosen) else 0.0
            for chosen in (_some(group.suspects, _ASKED_IMAGES, rng), _some(group.others, _ASKED_IMAGES, rng))
        )
        asked.append(replace(group, flips=(shares[0], shares[1])))
        if margin == 0 or shares[0] - shares[1] >= margin:
            confirmed.append(group.label)
            scores = group.scores[group.scores >= group.z]
            found.append((group.suspects, scores, answers(group.suspects, group.label)[1]))
    if not found:
        return Verdict(tuple(asked), (), images[:0], np.empty(0), images[:0])
    indices, all_scores, labels = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.argsort(indices)
    return Verdict(tuple(asked), tuple(confirmed), indices[order], all_scores[order], labels[order])


def _bounds(
    classifier: Classifier,
    sites: Sequence[Site],
    training_set: CleanSet,
    images: Indices,
    batch_size: int,
) -> Rewrite:
    """The tightest bounds under which `images` keep their answers."""
    batches = classifier.batches(training_set, images, batch_size)
    moments = stream_moments(classifier, sites, batches)
    asked = images[:: max(1, len(images) // _ASKED_IMAGES)]
    bounded: Rewrite = {}
    for deviations in _DEVIATIONS:
        bounded = {name: _bound(found, deviations) for name, found in moments.items()}
        lost = []
        for pixels, _ in classifier.batches(training_set, asked, batch_size):
            with torch.no_grad():
                answers = [classifier.logits(pixels, rewrite=item).argmax(dim=1) for item in ({}, bounded)]
            lost.append(answers[0] != answers[1])
        if float(torch.cat(lost).float().mean()) <= _BORNE_LOSS:
            break
    return bounded


def _bound(moments: Moments, deviations: float) -> Callable[[Tensor], Tensor]:
    limit = (moments.mean + deviations * moments.std).float()
    return lambda value: torch.minimum(value, limit)


@torch.no_grad()
def _answers(
    classifier: Classifier, training_set: CleanSet, images: Indices, label: int, batch_size: int, rewrite: Rewrite
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The answers, and the answers among all classes but `label`."""
    every, others = [], []
    for pixels, _ in classifier.batches(training_set, images, batch_size):
        logits = classifier.logits(pixels, rewrite=rewrite)
        every.append(logits.argmax(dim=1))
        logits[:, label] = -torch.inf
        others.append(logits.argmax(dim=1))
    return torch.cat(every).cpu().numpy(), torch.cat(others).cpu().numpy()


def _some(indices: Indices, count: int, rng: np.random.Generator) -> Indices:
    return np.sort(rng.permutation(indices)[:count])
