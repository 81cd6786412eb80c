# SPDX-License-Identifier: Apache-2.0
"""Find the poisoned images of a training set: activations, groups, verdict (NONE, Sec. 4).

What `patcher audit-data` does, and the first stage of each round of NONE.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from patcher.calibrate.audit.activations import judged_sites, pre_activation, stream_maxima
from patcher.calibrate.audit.confirmation import Verdict, judge
from patcher.calibrate.audit.groups import Thresholds, find_groups
from patcher.calibrate.audit.options import AuditOptions
from patcher.calibrate.classifier import Rewrite
from patcher.calibrate.findings import Findings, Group, Suspect
from patcher.calibrate.run import Run
from patcher.data.clean_set import CleanSet, Indices
from patcher.errors import NotApplicableError
from patcher.graph.sites import find_sites
from patcher.graph.weight_channels import Layer

_NEURONS_SHOWN = 3


def audit(
    run: Run,
    layers: Sequence[Layer],
    training_set: CleanSet,
    images: Indices,
    options: AuditOptions,
    *,
    rewrite: Rewrite | None = None,
    description: str = "none: read activations",
) -> Verdict:
    """Look for poisoned images.

    Args:
        run: The model, and the seed of the choice of the images for moments.
        layers: Of its channel sites; the class scores' own layer has no neurons.
        training_set: The training set.
        images: Indices of the images to look at.
        options: Thresholds.
        rewrite: Present weights, for the search; the confirmation always runs the original weights.
        description: What `progress` shows.

    Raises:
        NotApplicableError: No site has one value an image.
    """
    classifier = run.classifier
    hidden = judged_sites(classifier, [layer.site for layer in layers if layer.weight is not None], training_set)
    if not hidden:
        raise NotApplicableError("method none needs neurons with one value an image, found none; see 'patcher inspect'")
    thresholds = Thresholds(
        options.criterion, options.separability, options.theta, options.z, options.neurons, options.top
    )
    maxima = stream_maxima(run, hidden, training_set, images, rewrite=rewrite, description=description)
    groups = find_groups(maxima, training_set.labels, images, thresholds)
    # Of the original weights: repaired ones would no longer show what a label rested on.
    activations = [site for site in find_sites(classifier.model) if site.kind == "activation"]
    return judge(
        classifier,
        activations or [replace(site, tensor=pre_activation(site)) for site in hidden],
        training_set,
        images,
        groups,
        margin=options.margin,
        batch_size=run.batch_size,
        rng=np.random.default_rng(run.seed),
    )


def findings_of(verdict: Verdict) -> Findings:
    """Put a verdict into plain data."""
    groups, suspects = [], []
    likely = dict(zip(verdict.suspects.tolist(), verdict.true_labels.tolist(), strict=True))
    for group in verdict.groups:
        names = tuple(f"{neuron.tensor}[{neuron.channel}]" for neuron in group.neurons)
        confirmed = group.label in verdict.confirmed
        flips, others = group.flips or (0.0, 0.0)
        spread = tuple(round(float(value), 4) for value in group.separability)
        groups.append(
            Group(group.label, len(group.members), len(group.suspects), flips, others, confirmed, names, spread)
        )
        if confirmed:
            suspects += _suspects(group.members, group.scores, group.z, group.distances, group.label, names, likely)
    return Findings(tuple(sorted(suspects, key=lambda found: found.index)), tuple(groups))


def _suspects(
    members: Indices,
    scores: np.ndarray[Any, Any],
    z: float,
    distances: np.ndarray[Any, Any],
    label: int,
    names: Sequence[str],
    likely: Mapping[int, int],
) -> list[Suspect]:
    found = []
    for column in np.flatnonzero(scores >= z):
        furthest = np.argsort(-distances[:, column], kind="stable")[:_NEURONS_SHOWN]
        index = int(members[column])
        found.append(
            Suspect(index, label, round(float(scores[column]), 4), likely[index], tuple(names[row] for row in furthest))
        )
    return found
