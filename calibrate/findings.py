# SPDX-License-Identifier: Apache-2.0
"""What an audit of a training set found, as plain data: for the report, the list of suspects, the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from patcher.data.clean_set import Indices


@dataclass(frozen=True)
class Suspect:
    """One suspected image.

    Attributes:
        index: Its place in the training set.
        label: The label it carries.
        score: Standard deviations from the label's benign images.
        likely_label: The class that the model sees without the excess.
        neurons: The neurons that it drives furthest, ``tensor[channel]``.
    """

    index: int
    label: int
    score: float
    likely_label: int
    neurons: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """One label with a second group of images.

    Attributes:
        label: The label.
        images: Images that carry it.
        suspects: How many of them are in the second group.
        flips: Share of the suspects that lose the label under bounds.
        flips_of_others: The same share of the label's other images.
        confirmed: Whether the suspects are taken for poisoned.
        neurons: The compromised neurons, ``tensor[channel]``, most separable first.
        separability: One value a neuron.
    """

    label: int
    images: int
    suspects: int
    flips: float
    flips_of_others: float
    confirmed: bool
    neurons: tuple[str, ...]
    separability: tuple[float, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Findings:
    """Suspected images, and every label with a second group."""

    suspects: tuple[Suspect, ...] = ()
    groups: tuple[Group, ...] = ()

    @property
    def indices(self) -> Indices:
        """Places of the suspects in the training set, int64."""
        return np.array([found.index for found in self.suspects], np.int64)

    def joined(self, other: Findings) -> Findings:
        """These and those of a later round; suspects stay in order of their place."""
        suspects = sorted((*self.suspects, *other.suspects), key=lambda found: found.index)
        return Findings(tuple(suspects), (*self.groups, *other.groups))

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values; `findings_from_json` reads them."""
        return {"suspects": [asdict(item) for item in self.suspects], "groups": [asdict(item) for item in self.groups]}


def findings_from_json(document: Mapping[str, Any]) -> Findings:
    """What `Findings.as_json` wrote."""
    return Findings(
        tuple(Suspect(**{**item, "neurons": tuple(item["neurons"])}) for item in document["suspects"]),
        tuple(
            Group(**{**item, "neurons": tuple(item["neurons"]), "separability": tuple(item["separability"])})
            for item in document["groups"]
        ),
    )
