# SPDX-License-Identifier: Apache-2.0
"""Find the poisoned images of a training set: activations, groups, verdict (NONE, Sec. 4).

What `patcher audit-data` does, and the first stage of each round of NONE.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from patcher.calibrate import Progress, no_progress
from patcher.calibrate.classifier import Classifier, Rewrite
from patcher.calibrate.identification import Criterion, Thresholds, find_groups
from patcher.calibrate.maxima import judged_sites, pre_activation, stream_maxima
from patcher.calibrate.ranges import check_ranges
from patcher.calibrate.reinitialization import Layer
from patcher.calibrate.verdict import Verdict, judge
from patcher.clean_set import CleanSet, Indices
from patcher.errors import NotApplicableError
from patcher.graph.sites import find_sites


@dataclass(frozen=True)
class AuditOptions:
    """What makes a neuron compromised and an image suspected.

    Attributes:
        criterion: ``linearity`` is the paper's test, ``ranking`` the authors' code.
        separability: Least share of a neuron's variance that the two groups explain.
        theta: Least share of the upper group on one linear piece.
        z: lambda: standard deviations from the benign group.
        neurons: Compromised neurons a label at most.
        top: Share of each layer's channels that ``ranking`` takes.
        margin: Share of suspects that must lose their label under bounds, above that of other images.
    """

    criterion: Criterion = field(default="linearity", metadata={"help": "how compromised neurons are chosen"})
    separability: float = field(default=0.8, metadata={"help": "least share of variance between the two groups"})
    theta: float = field(default=0.95, metadata={"help": "least share of the upper group on one linear piece"})
    z: float = field(default=3.0, metadata={"help": "a suspect's standard deviations from the benign group"})
    neurons: int = field(default=32, metadata={"help": "compromised neurons a label at most"})
    top: float = field(default=0.03, metadata={"help": "share of each layer's channels under --criterion ranking"})
    margin: float = field(default=0.4, metadata={"help": "share of suspects that lose their label under bounds"})

    def __post_init__(self) -> None:
        check_ranges(self, "separability", "theta", "top", "margin", least=0, most=1)
        check_ranges(self, "z", above=0)
        check_ranges(self, "neurons", least=1)


def audit(
    classifier: Classifier,
    layers: Sequence[Layer],
    training_set: CleanSet,
    images: Indices,
    options: AuditOptions,
    *,
    seed: int,
    batch_size: int,
    rewrite: Rewrite | None = None,
    progress: Progress = no_progress,
    description: str = "none: read activations",
) -> Verdict:
    """Look for poisoned images.

    Args:
        classifier: The model.
        layers: Of its channel sites; the class scores' own layer has no neurons.
        training_set: The training set.
        images: Indices of the images to look at.
        options: Thresholds.
        seed: Choice of the images for moments.
        batch_size: Images in memory at a time.
        rewrite: Present weights, for the search; the verdict is asked of the model as it came.
        progress: Told of each batch.
        description: What `progress` shows.

    Raises:
        NotApplicableError: No site has one value an image.
    """
    hidden = judged_sites(classifier, [layer.site for layer in layers if layer.weight is not None], training_set)
    if not hidden:
        raise NotApplicableError("method none needs neurons with one value an image, found none; see 'patcher inspect'")
    thresholds = Thresholds(
        options.criterion, options.separability, options.theta, options.z, options.neurons, options.top
    )
    maxima = stream_maxima(
        classifier,
        hidden,
        training_set,
        images,
        batch_size=batch_size,
        rewrite=rewrite,
        progress=progress,
        description=description,
    )
    groups = find_groups(maxima, training_set.labels, images, thresholds)
    # Asked of the model as it came: repaired weights would no longer show what a label rested on.
    activations = [site for site in find_sites(classifier.model) if site.kind == "activation"]
    return judge(
        classifier,
        activations or [replace(site, tensor=pre_activation(site)) for site in hidden],
        training_set,
        images,
        groups,
        margin=options.margin,
        batch_size=batch_size,
        rng=np.random.default_rng(seed),
    )
