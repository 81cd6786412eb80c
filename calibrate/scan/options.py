# SPDX-License-Identifier: Apache-2.0
"""Options of the scan."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from patcher.calibrate.options import check_ranges
from patcher.errors import InputError
from patcher.triggers.trigger import Family

DEFAULT_MEMORY_MIB = 1024


@dataclass(frozen=True)
class Options:
    """What a scan does.

    Attributes:
        family: Which kinds of change are searched.
        steps: Optimiser steps an inversion at most.
        images: Images a step and target.
        seeds: Independent searches of the most suspect targets.
        repeat: How many targets are searched under every seed.
        top: Targets inverted where the model has more than 43 classes, by rank.
    """

    family: Literal["both", "patch", "additive"] = field(
        default="both", metadata={"help": "which kinds of trigger are searched"}
    )
    steps: int = field(default=80, metadata={"help": "optimiser steps an inversion at most"})
    images: int = field(default=16, metadata={"help": "images a step and target"})
    seeds: int = field(default=3, metadata={"help": "independent searches of the most suspect targets"})
    repeat: int = field(default=3, metadata={"help": "most suspect targets, searched under every seed"})
    top: int = field(default=20, metadata={"help": "targets inverted, by rank, above 43 classes"})

    def __post_init__(self) -> None:
        check_ranges(self, "steps", "images", "seeds", "repeat", "top", least=1)
        if self.family not in ("both", "patch", "additive"):
            raise InputError(f"--family: both, patch or additive expected, found {self.family!r}")

    @property
    def families(self) -> tuple[Family, ...]:
        """The families to search."""
        return ("patch", "additive") if self.family == "both" else (self.family,)
