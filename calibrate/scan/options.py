# SPDX-License-Identifier: Apache-2.0
"""Options of the scan."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from patcher.calibrate.options import check_ranges
from patcher.errors import InputError
from patcher.triggers.family import families, fitting_families

DEFAULT_MEMORY_MIB = 1024


@dataclass(frozen=True)
class Options:
    """What a scan does.

    Attributes:
        family: Names of the families of triggers that are searched; none for all.
        steps: Optimiser steps an inversion at most.
        images: Images a step and target.
        seeds: Independent searches of the most suspect targets.
        repeat: How many targets are searched under every seed.
        sources: Targets, by rank, for which each source class is searched alone as well.
        top: Targets inverted where the model has more than 43 classes, by rank.
        precision: Of the searches: ``auto`` is bfloat16 where the device is faster in it and the model takes it.
    """

    family: tuple[str, ...] = field(default=(), metadata={"help": "family of triggers to search; may be repeated"})
    steps: int = field(default=80, metadata={"help": "optimiser steps an inversion at most"})
    images: int = field(default=16, metadata={"help": "images a step and target"})
    seeds: int = field(default=3, metadata={"help": "independent searches of the most suspect targets"})
    repeat: int = field(default=3, metadata={"help": "most suspect targets, searched under every seed"})
    sources: int = field(
        default=0, metadata={"help": "targets, by rank, for which each source class is searched alone"}
    )
    top: int = field(default=20, metadata={"help": "targets inverted, by rank, above 43 classes"})
    precision: Literal["auto", "float32"] = field(
        default="auto", metadata={"help": "of the searches; auto: bfloat16 where that is faster"}
    )

    def __post_init__(self) -> None:
        check_ranges(self, "steps", "images", "seeds", "repeat", "top", least=1)
        check_ranges(self, "sources", least=0)
        if unknown := [name for name in self.family if name not in families()]:
            raise InputError(f"--family: {', '.join(families())} expected, found {unknown[0]!r}")

    @property
    def families(self) -> tuple[str, ...]:
        """The families to search in pictures, in the order of registration."""
        return fitting_families(self.family, "picture")
