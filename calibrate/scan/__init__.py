# SPDX-License-Identifier: Apache-2.0
"""Scan: is there a backdoor, to which class, and what does its trigger look like?

For each target the smallest input change is sought that sends images there; a backdoor is a change
that is abnormally small beside those of the other targets.

    options         what is searched
    goal            which images are to be sent where, and which images each step sees
    latent          how far each class is, without any form of trigger: an order, and a second opinion
    ranking         the order where that cannot be told
    inversion       the search in a family, all goals at once as one leading axis
    enumeration     the search where no gradient leads
    rounds          one family under one seed after another
    one_way         a way between two classes that is far shorter than the way back, without any form of trigger
    single_sources  each source class alone, for the targets of such ways
    effect          where a trigger sends images of each class
    amplification   from the smallest change to one worth defending against
    stages          the stages, from images to figures
    parts           a scan in parts that can be computed apart, and how they are joined
    figures         what the stages found of each target
    outliers        outlier score, ratio and gap over the sizes of all targets
    target_verdict  from a target's figures to ``backdoor``, ``suspicious``, ``clean`` or ``inconclusive``
    model_verdict   the verdict on the model, and the triggers worth keeping

What kinds of change there are is in `patcher.triggers`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from patcher.calibrate.run import Run
    from patcher.calibrate.scan.target_verdict import Level
    from patcher.data.clean_set import CleanSet
    from patcher.triggers.trigger import Trigger


def scan_triggers(run: Run, clean_set: CleanSet) -> tuple[tuple[Trigger, ...], Level]:
    """Triggers of all targets that a scan with default options flags, and its verdict; none for a clean model.

    Args:
        run: The model, and the seed of everything random.
        clean_set: Clean images; triggers are searched on *fit* and tried on *held-out*.
    """
    from patcher.calibrate.scan.effect import predicted_classes
    from patcher.calibrate.scan.model_verdict import decide
    from patcher.calibrate.scan.options import Options
    from patcher.calibrate.scan.stages import search
    from patcher.calibrate.scan.target_verdict import Thresholds

    thresholds = Thresholds()
    predicted = predicted_classes(run.classifier, clean_set, batch_size=run.batch_size)
    findings = search(run, clean_set, predicted, Options(), thresholds)
    decision = decide(findings, thresholds, clean_set.class_names)
    return decision.triggers, decision.level
