# SPDX-License-Identifier: Apache-2.0
"""Options of the audit of a training set."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from patcher.calibrate.options import check_ranges

Criterion = Literal["linearity", "ranking"]


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
