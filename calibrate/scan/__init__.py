# SPDX-License-Identifier: Apache-2.0
"""Scan: is there a backdoor, to which class, and what does its trigger look like?

For each target the smallest input change is sought that sends images there; a backdoor is a change
that is abnormally small beside those of the other targets.

    goal         which images are to be sent where, and which images each step sees
    family       how a change is put into pixels: patch (mask, pattern) or additive (delta)
    inversion    the search itself, all goals at once as one leading axis
    ranking      which targets look likely at little or no cost: an order, never a filter
    statistics   outlier score, gap and cap over the norms of all targets
    verdict      from figures to ``backdoor``, ``suspicious``, ``clean`` or ``inconclusive``
    effect       where a trigger sends images of each class
    strength     from the smallest change to one worth defending against
    search       the stages, from images to figures
    decision     the verdict on the model, and the triggers worth keeping
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from patcher.progress import Progress, no_progress

if TYPE_CHECKING:
    from patcher.calibrate.classifier import Classifier
    from patcher.calibrate.scan.target_verdict import Level
    from patcher.data.clean_set import CleanSet
    from patcher.triggers.trigger import Trigger


def scan_triggers(
    classifier: Classifier,
    clean_set: CleanSet,
    *,
    seed: int,
    batch_size: int,
    progress: Progress = no_progress,
) -> tuple[tuple[Trigger, ...], Level]:
    """Triggers of all targets that a scan with default options flags, and its verdict; none for a clean model.

    Args:
        classifier: The model.
        clean_set: Clean images; triggers are searched on *fit* and tried on *held-out*.
        seed: Of everything random.
        batch_size: Images in memory at a time.
        progress: Told of each step.
    """
    from patcher.calibrate.scan.effect import predicted_classes
    from patcher.calibrate.scan.model_verdict import decide
    from patcher.calibrate.scan.options import Options
    from patcher.calibrate.scan.stages import search
    from patcher.calibrate.scan.target_verdict import Thresholds

    thresholds = Thresholds()
    findings = search(
        classifier,
        clean_set,
        predicted_classes(classifier, clean_set, batch_size=batch_size),
        Options(),
        thresholds,
        seed=seed,
        batch_size=batch_size,
        progress=progress,
    )
    decision = decide(findings, thresholds, clean_set.class_names)
    return decision.triggers, decision.level
