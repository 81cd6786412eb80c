# SPDX-License-Identifier: Apache-2.0
"""Options of BNA."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from patcher.calibrate.options import check_ranges
from patcher.patch import BranchForm

Divergence = Literal["tv", "js", "kl"]
Learned = Literal["all", "omega", "none"]


@dataclass(frozen=True)
class Options:
    """Options of BNA.

    Attributes:
        triggers: Trigger file of an earlier scan.
        scan: ``scan.json`` of an earlier scan of this model. Neither: it is scanned first.
        branch: How the second pass is baked.
        keep_original_output: Whether the uncorrected class scores are an output too.
        epsilon: Accuracy that may be lost on held-out images, 0 to 1.
        steps: Optimiser steps for each target; 0 keeps the start.
        minibatch: Images a step.
        learning_rate: Of Adam at the start; it falls to 0 along a cosine.
        divergence: Between histograms: total variation, Jensen-Shannon, Kullback-Leibler.
        alignment: Weight of the divergence.
        answer: Weight of the answers.
        learn: What the optimiser may move.
        temperature: tau of the soft histograms.
        check_every: Steps between measurements on held-out images.
    """

    triggers: str | None = field(default=None, metadata={"help": "estimated triggers, .npz", "recorded": False})
    scan: str | None = field(
        default=None, metadata={"help": "scan.json of 'patcher scan'; bna without it scans first", "recorded": False}
    )
    branch: BranchForm = field(default="if", metadata={"help": "how the second pass is baked"})
    keep_original_output: bool = field(default=False, metadata={"help": "the uncorrected scores as an output too"})
    epsilon: float = field(default=0.02, metadata={"help": "accuracy that may be lost on held-out images, 0 to 1"})
    steps: int = field(default=100, metadata={"help": "optimiser steps for each target"})
    minibatch: int = field(default=64, metadata={"help": "images an optimiser step"})
    learning_rate: float = field(default=0.01, metadata={"help": "of Adam at the start; falls to 0 along a cosine"})
    divergence: Divergence = field(default="tv", metadata={"help": "between histograms"})
    alignment: float = field(default=1.0, metadata={"help": "weight of the divergence"})
    answer: float = field(default=1.0, metadata={"help": "weight of the answers; 0 is the paper"})
    learn: Learned = field(default="all", metadata={"help": "what the optimiser may move"})
    temperature: float = field(default=150.0, metadata={"help": "tau of the soft histograms"})
    check_every: int = field(default=20, metadata={"help": "steps between measurements on held-out images"})

    def __post_init__(self) -> None:
        check_ranges(self, "minibatch", "check_every", least=1)
        check_ranges(self, "steps", "alignment", "answer", least=0)
        check_ranges(self, "epsilon", least=0, below=1)
        check_ranges(self, "learning_rate", above=0)
