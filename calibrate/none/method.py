# SPDX-License-Identifier: Apache-2.0
"""NONE: repair with the (suspect) training set (Wang et al., "Training with More Confidence", NeurIPS 2022).

The method for those who still have the training data; it also says which images are poisoned. In rounds:

    identify      compromised neurons and suspected images, label by label      (`audit`)
    start anew    the compromised neurons' weights                              (`reinitialization`)
    fine-tune     all weights on the other images, BatchNormalization statistics frozen

until a round finds nothing new, or `rounds` is spent. Where the first round finds nothing, nothing is changed.

What differs from the paper, and why (figures in docs/none.md):

- The split in two has to be a real one, and a group is suspected only when its label falls without the
  group's excess (`patcher.calibrate.audit.confirmation`): a clean training set loses no image.
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

from patcher.calibrate import Calibration
from patcher.calibrate.best_state import holds
from patcher.calibrate.findings import Findings
from patcher.calibrate.none.options import Options
from patcher.calibrate.none.rounds import Repair
from patcher.calibrate.run import Run
from patcher.data.clean_set import CleanSet, Indices
from patcher.errors import NotApplicableError
from patcher.graph.site import Site
from patcher.patch import Weights


def calibrate(
    run: Run, sites: Sequence[Site], clean_set: CleanSet | None, options: Options, *, training_set: CleanSet
) -> Calibration:
    """Find poisoned images and repair the model.

    Args:
        run: The model, and the seed of the order of the images and of new weights.
        sites: Channel sites.
        clean_set: Clean images on which the accuracy condition is decided; ``None`` decides on the images of
            the training set that are not suspected.
        options: Options of NONE.
        training_set: The training set.

    Returns:
        One `Weights` for each initializer that changed; none where nothing was found.

    Raises:
        NotApplicableError: No channel site has weights that can be trained.
        InputError: The checkpoint belongs to another run.
    """
    repair = Repair(run, sites, training_set, options)
    if not repair.parameters:
        raise NotApplicableError("method none needs float weights as initializers of the main graph, found none")
    repair.rounds()
    findings = repair.findings
    decide, images = _decided_on(clean_set, training_set, repair.benign)
    before = float(run.classifier.hits(decide, images, batch_size=run.batch_size).float().mean())
    hits = run.classifier.hits(decide, images, batch_size=run.batch_size, rewrite=repair.rewrite)
    after = float(hits.float().mean())
    changed = repair.changed()
    return Calibration(
        corrections=tuple(Weights(name, value) for name, value in changed.items()),
        satisfied=holds(before - after, options.epsilon),
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
    return clean_set, clean_set.deciding
