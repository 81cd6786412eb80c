# SPDX-License-Identifier: Apache-2.0
"""Options of NFT."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from patcher.calibrate.options import check_ranges
from patcher.patch import MaskForm


def mask_floor(number: int, base: float, decay: float) -> float:
    """``mu(l) = base * exp(-decay * l)``, the smallest mask value of the l-th masked constant, l from 1 (Sec. 4)."""
    return base * math.exp(-decay * number)


@dataclass(frozen=True)
class Options:
    """Options of NFT.

    Attributes:
        triggers: File of estimated triggers; adds the ideal purification loss.
        scan: ``scan.json`` of an earlier scan of this model, in place of `triggers`.
        flagged: Images that a service flagged, folder or ``.npz``; unlabelled, false alarms among them.
        mask: What a suppressed channel falls back to.
        bn_stats: Whether layer statistics are re-estimated on clean images under the masks.
        epsilon: Accuracy that may be lost on held-out images, 0 to 1.
        steps: Optimiser steps.
        minibatch: Clean images a step; as many stamped and flagged ones come on top, where they are given.
        learning_rate: Of SGD at the start; it falls to 0 along a cosine.
        momentum: Of SGD.
        eta: Weight of the regulariser, divided by the fit images a class.
        mixup: Parameter of the Beta distribution of MixUp; 0 mixes nothing; ``None`` for 0 with triggers or flagged
            images, else 1.
        augment: Flip and shift the images as far as the model bears it.
        targets: What the masked model is to answer.
        floor: mu(l) at l = 0.
        floor_decay: By how much a layer the logarithm of mu(l) falls.
        check_every: Steps between measurements.
        mask_form: Masks as products in the graph, or multiplied into the weights.
        precision: Of the optimiser's steps: ``float32``, or ``auto``: bfloat16 where the device is faster in it and the
            model takes it. What is kept is decided in float32.
    """

    triggers: str | None = field(default=None, metadata={"help": "estimated triggers, .npz", "recorded": False})
    scan: str | None = field(
        default=None, metadata={"help": "scan.json of 'patcher scan'; bna without it scans first", "recorded": False}
    )
    flagged: str | None = field(
        default=None, metadata={"help": "images that a service flagged, unlabelled: folder or .npz", "recorded": False}
    )
    mask: Literal["plain", "centred"] = field(
        default="centred", metadata={"help": "suppress towards the bias, or towards the channel's clean mean"}
    )
    bn_stats: Literal["keep", "reestimate"] = field(
        default="keep", metadata={"help": "keep layer statistics, or re-estimate them on clean images"}
    )
    epsilon: float = field(default=0.02, metadata={"help": "accuracy that may be lost on held-out images, 0 to 1"})
    steps: int = field(default=400, metadata={"help": "optimiser steps"})
    minibatch: int = field(default=64, metadata={"help": "clean images an optimiser step"})
    learning_rate: float = field(default=0.05, metadata={"help": "of SGD at the start; falls to 0 along a cosine"})
    momentum: float = field(default=0.95, metadata={"help": "of SGD"})
    eta: float = field(default=5e-4, metadata={"help": "weight of the regulariser, divided by fit images a class"})
    mixup: float | None = field(
        default=None,
        metadata={"help": "parameter of the Beta distribution, 0 for none; without triggers and --flagged 1, else 0"},
    )
    augment: bool = field(default=True, metadata={"help": "flip and shift images as far as the model bears it"})
    targets: Literal["answers", "labels"] = field(
        default="answers", metadata={"help": "keep the model's own probabilities, or the labels"}
    )
    floor: float = field(default=0.8, metadata={"help": "smallest mask before the first layer"})
    floor_decay: float = field(default=0.5, metadata={"help": "decay of the smallest mask a layer"})
    check_every: int = field(default=20, metadata={"help": "steps between measurements on held-out images"})
    mask_form: MaskForm = field(default="mask", metadata={"help": "a product the runtime folds, or into the weights"})
    precision: Literal["auto", "float32"] = field(
        default="float32",
        metadata={"help": "of the steps; auto: bfloat16 where that is faster", "recorded": "if set"},
    )

    def __post_init__(self) -> None:
        check_ranges(self, "minibatch", "check_every", least=1)
        check_ranges(self, "steps", "eta", "floor_decay", least=0)
        check_ranges(self, "epsilon", "momentum", "floor", least=0, most=1)
        check_ranges(self, "learning_rate", above=0)
        if self.mixup is not None:
            check_ranges(self, "mixup", least=0)
