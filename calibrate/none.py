# SPDX-License-Identifier: Apache-2.0
"""NONE: repair with the (suspect) training set (Wang et al., "Training with More Confidence", NeurIPS 2022).

The method for those who still have the training data; it also says which images are poisoned. In rounds:

    identify      compromised neurons and suspected images, label by label      (`audit`)
    start anew    the compromised neurons' weights                              (`reinitialization`)
    fine-tune     all weights on the other images, BatchNormalization statistics frozen

until a round finds nothing new, or `rounds` is spent. Where the first round finds nothing, nothing is changed.

What differs from the paper, and why (figures in docs/none.md):

- The split in two has to be a real one, and a group is suspected only when its label falls without the
  group's excess (`patcher.calibrate.verdict`): a clean training set loses no image.
- ``--suspects relabel`` gives the suspects the class that the model sees without the excess and trains on
  them, so that the trigger is unlearned; ``drop`` leaves them out, as the paper does.
- A fresh neuron keeps its channel's mean and deviation, since the statistics behind it stay frozen.

A run can be killed at any moment: after each stage and epoch its state is in the checkpoint, and every epoch
draws from a generator of its own, so that a resumed run ends with the same weights.

When it does not hold: a trigger that moves no neuron of its own, or more poisoned images under a label than
the model's answers under bounds can tell apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from patcher.calibrate import Calibration, Progress, no_progress
from patcher.calibrate.audit import AuditOptions
from patcher.calibrate.classifier import Classifier
from patcher.calibrate.findings import Findings
from patcher.calibrate.ranges import check_ranges
from patcher.calibrate.repair import Repair
from patcher.clean_set import CleanSet, Indices
from patcher.errors import NotApplicableError
from patcher.graph.site import Site
from patcher.patch import Weights

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


def calibrate(
    classifier: Classifier,
    sites: Sequence[Site],
    clean_set: CleanSet | None,
    options: Options,
    *,
    seed: int,
    batch_size: int,
    progress: Progress = no_progress,
    training_set: CleanSet,
) -> Calibration:
    """Find poisoned images and repair the model.

    Args:
        classifier: The model; the repaired weights are given as corrections.
        sites: Channel sites.
        clean_set: Clean images on which the accuracy condition is decided; ``None`` decides on the images of
            the training set that are not suspected.
        options: Options of NONE.
        seed: Of the order of the images and of new weights.
        batch_size: Images in memory at a time.
        progress: Told of each step.
        training_set: The training set.

    Returns:
        One `Weights` for each initializer that changed; none where nothing was found.

    Raises:
        NotApplicableError: No channel site has weights that can be trained.
        InputError: The checkpoint belongs to another run.
    """
    repair = Repair(classifier, sites, training_set, options, seed=seed, batch_size=batch_size, progress=progress)
    if not repair.parameters:
        raise NotApplicableError("method none needs float weights as initializers of the main graph, found none")
    repair.run()
    findings = repair.findings
    decide, images = _decided_on(clean_set, training_set, repair.benign)
    before = float(classifier.hits(decide, images, batch_size=batch_size).float().mean())
    hits = classifier.hits(decide, images, batch_size=batch_size, rewrite=repair.rewrite)
    after = float(hits.float().mean())
    changed = repair.changed()
    return Calibration(
        corrections=tuple(Weights(name, value) for name, value in changed.items()),
        satisfied=after >= before - options.epsilon - 1e-6,
        held_out_before=before,
        held_out_after=after,
        curve=tuple(repair.curve),
        summary={
            "verdict": _verdict(findings, training_set),
            "training_images": len(training_set),
            "suspects": len(findings.suspects),
            "labels": [group.as_json() for group in findings.groups],
            "rounds": repair.rounds_done,
            "neurons_reset": repair.neurons_reset,
            "training_set_sha256": training_set.sha256,
            "decided_on": "clean images" if clean_set is not None else "training images that are not suspected",
        },
        findings=findings,
    )


def _verdict(findings: Findings, training_set: CleanSet) -> str:
    if not findings.suspects:
        return "no poisoned training image found: the model is returned unchanged"
    labels = sorted({training_set.class_names[found.label] for found in findings.suspects})
    return f"{len(findings.suspects)} of {len(training_set)} training images suspected, labelled {', '.join(labels)}"


def _decided_on(clean_set: CleanSet | None, training_set: CleanSet, benign: Indices) -> tuple[CleanSet, Indices]:
    """The clean images that decide; without any, the training images that are not suspected."""
    if clean_set is None:
        return training_set, benign
    return clean_set, clean_set.held_out if len(clean_set.held_out) else clean_set.fit
