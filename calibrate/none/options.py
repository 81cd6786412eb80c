# SPDX-License-Identifier: Apache-2.0
"""Options of NONE."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from patcher.calibrate.audit.options import AuditOptions
from patcher.calibrate.options import check_ranges

_NOT_RECORDED = {"recorded": False}


@dataclass(frozen=True)
class Options(AuditOptions):
    """Options of NONE, beside those of the audit.

    Attributes:
        train_dir: The training set, as a clean set is given.
        suspects: What becomes of suspected images.
        reset: Start compromised neurons anew.
        rounds: Rounds at most.
        epochs: Epochs of fine-tuning a round.
        minibatch: Images a step.
        learning_rate: Of Adam at the start of a round; falls to 0 along a cosine.
        augment: Mirror and shift images, as far as the model bears it.
        epsilon: Accuracy that may be lost on the clean images, 0 to 1.
        checkpoint: File that holds the state of the run.
        resume: Go on from the checkpoint, if there is one.
    """

    train_dir: str | None = field(default=None, metadata={"help": "the training set: folder, .npz", **_NOT_RECORDED})
    suspects: Literal["relabel", "drop"] = field(
        default="relabel", metadata={"help": "train on suspects with the class seen without the trigger, or not"}
    )
    reset: bool = field(default=True, metadata={"help": "start compromised neurons anew"})
    rounds: int = field(default=2, metadata={"help": "rounds of identification and repair at most"})
    epochs: int = field(default=4, metadata={"help": "epochs of fine-tuning a round"})
    minibatch: int = field(default=64, metadata={"help": "images an optimiser step"})
    learning_rate: float = field(default=0.0003, metadata={"help": "of Adam at the start; falls to 0 along a cosine"})
    augment: bool = field(default=True, metadata={"help": "mirror and shift images, as the model bears it"})
    epsilon: float = field(default=0.03, metadata={"help": "accuracy that may be lost on clean images, 0 to 1"})
    checkpoint: str | None = field(
        default=None, metadata={"help": "file that a killed run goes on from", **_NOT_RECORDED}
    )
    resume: bool = field(default=False, metadata={"help": "go on from the checkpoint", **_NOT_RECORDED})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, "rounds", "epochs", "minibatch", least=1)
        check_ranges(self, "epsilon", least=0, below=1)
        check_ranges(self, "learning_rate", above=0)
