# SPDX-License-Identifier: Apache-2.0
"""Options of UNIT."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from patcher.calibrate.options import AlphaSchedule, Granularity, check_ranges
from patcher.patch import BranchForm


@dataclass(frozen=True)
class Options:
    """Options of UNIT.

    Attributes:
        granularity: One bound a channel, or one an element of the activation map.
        epsilon: Accuracy that may be lost on held-out images, 0 to 1.
        steps: Optimiser steps at most.
        minibatch: Images a step.
        learning_rate: Of Adam at the start, on the logarithm of z; it falls to 0 along a cosine.
        z: Standard deviations above the mean at the start.
        alpha: Weight of the regulariser at the start.
        alpha_schedule: How alpha follows the accuracy condition.
        loss: What is kept on clean images.
        augment: Mirror and shift images under ``distillation``, as far as the model itself bears it.
        regularizer: What is made tight.
        check_every: Steps between measurements on held-out images.
        tie_residual: One bound vector for the sites along a residual stream.
        means: Bound the mean of each channel over an image's places, too.
        mean_z: For `means`: standard deviations above the mean at the start.
        flag: Instead of bounding every image, flag unusual ones and answer those under the bounds.
        false_alarms: Share of clean images that may be flagged, 0 to 1.
        branch: How the second view of ``flag`` is baked.
        precision: Of the optimiser's steps: ``float32``, or ``auto``: bfloat16 where the device is faster in it and the
            model takes it. What is kept is decided in float32.
    """

    granularity: Granularity = field(default="channel", metadata={"help": "one bound a channel, or one an element"})
    epsilon: float = field(default=0.02, metadata={"help": "accuracy that may be lost on held-out images, 0 to 1"})
    steps: int = field(default=300, metadata={"help": "optimiser steps at most"})
    minibatch: int = field(default=64, metadata={"help": "images an optimiser step"})
    learning_rate: float = field(default=0.03, metadata={"help": "of Adam at the start; falls to 0 along a cosine"})
    z: float = field(default=4.0, metadata={"help": "start: standard deviations above the mean"})
    alpha: float = field(default=0.01, metadata={"help": "weight of the regulariser at the start"})
    alpha_schedule: AlphaSchedule = field(
        default="paper", metadata={"help": "how the weight of the regulariser follows the accuracy condition"}
    )
    loss: Literal["distillation", "cross-entropy"] = field(
        default="distillation", metadata={"help": "keep the model's own answers, or the labels"}
    )
    augment: bool = field(default=True, metadata={"help": "mirror and shift images where the model bears it"})
    regularizer: Literal["relative", "absolute"] = field(
        default="relative", metadata={"help": "bounds relative to their start, or as they are"}
    )
    check_every: int = field(
        default=10, metadata={"help": "steps between measurements on held-out images", "follows": "minibatch"}
    )
    tie_residual: bool = field(default=False, metadata={"help": "one bound vector along a residual stream"})

    means: bool = field(
        default=False, metadata={"help": "bound the mean of each channel over the places, too", "recorded": "if set"}
    )
    mean_z: float = field(
        default=1.0,
        metadata={"help": "--means: start, in standard deviations above the mean", "recorded": "if set"},
    )
    flag: bool = field(
        default=False, metadata={"help": "flag unusual images at run time, bound those alone", "recorded": "if set"}
    )
    false_alarms: float = field(
        default=0.01, metadata={"help": "share of clean images that --flag may flag", "recorded": "if set"}
    )
    branch: BranchForm = field(
        default="if", metadata={"help": "how the second view of --flag is baked", "recorded": "if set"}
    )
    precision: Literal["auto", "float32"] = field(
        default="float32",
        metadata={"help": "of the steps; auto: bfloat16 where that is faster", "recorded": "if set"},
    )

    def __post_init__(self) -> None:
        check_ranges(self, "false_alarms", above=0, below=1)
        check_ranges(self, "minibatch", "check_every", least=1)
        check_ranges(self, "steps", least=0)
        check_ranges(self, "epsilon", least=0, below=1)
        check_ranges(self, "learning_rate", "z", "mean_z", "alpha", above=0)
