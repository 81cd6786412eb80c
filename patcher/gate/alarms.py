# SPDX-License-Identifier: Apache-2.0
"""``trigger_detected``: is it quiet on clean images, and does it come on for unusual and for triggered ones?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from patcher.gate.check import Check, decided
from patcher.gate.subject import FLAG, NotRunError, Subject
from patcher.measure.scores import share
from patcher.two_files import EXCESS_OUTPUT, SCORE_OUTPUT

_UNUSUAL = 32  # pictures of each kind
_CONTRAST = 4.0


def alarm_checks(subject: Subject) -> Iterator[Check]:
    """The checks ``false_alarms``, ``flag_response`` and ``detections``; skipped for a model without the output."""
    if FLAG not in subject.hardened.outputs:
        for name in ("false_alarms", "flag_response", "detections"):
            yield Check(name, "skipped", f"the hardened model has no output {FLAG}")
        return
    yield _false_alarms(subject)
    yield _response(subject)
    yield _detections(subject)


def _false_alarms(subject: Subject) -> Check:
    limit = subject.policy.thresholds.false_alarms
    try:
        raised = share(subject.flags(subject.prepared.clean_set.pixels))
    except NotRunError as error:
        return Check("false_alarms", "not_run", str(error), threshold=limit)
    return decided(
        "false_alarms",
        raised.value <= limit + 1e-9,
        f"{raised.value:.1%} of the clean images are flagged",
        count=raised.count,
        value=raised.value,
        threshold=limit,
        interval=(raised.low, raised.high),
    )


def _response(subject: Subject) -> Check:
    """Whether a flag that scores every image can come on at all; no trigger is needed to ask that."""
    if not {SCORE_OUTPUT, EXCESS_OUTPUT} & set(subject.hardened.outputs):
        return Check("flag_response", "skipped", f"the hardened model has no output {SCORE_OUTPUT}")
    if not subject.prepared.model.is_picture:
        return Check("flag_response", "skipped", "plainly unusual inputs are known of pictures alone")
    try:
        raised = share(subject.flags(unusual_pictures(subject.prepared.clean_set.images(slice(0, _UNUSUAL)))))
    except NotRunError as error:
        return Check("flag_response", "not_run", str(error))
    return decided(
        "flag_response",
        raised.hits > 0,
        f"{raised.value:.1%} of plainly unusual pictures are flagged",
        count=raised.count,
        value=raised.value,
        interval=(raised.low, raised.high),
    )


def unusual_pictures(clean: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pictures like no photograph, ``(5n, C, H, W)``, made from clean ones ``(n, C, H, W)`` in [0, 1]."""
    rng = np.random.default_rng(0)
    noise = rng.random(clean.shape, np.float32)
    covered = clean.copy()
    half = covered[..., : clean.shape[3] // 2]
    half[:] = noise[..., : clean.shape[3] // 2].round()
    harsh = np.clip((clean - 0.5) * np.float32(_CONTRAST) + np.float32(0.5), 0, 1)
    return np.concatenate([noise, noise.round(), 1 - clean, harsh, covered])


def _detections(subject: Subject) -> Check:
    """Counts images that the trigger did send to the target in the original: there was an attack to detect."""
    limit = subject.policy.thresholds.detections
    pieces = list(_attacked(subject))
    if not pieces or not sum(len(piece) for piece in pieces):
        return Check("detections", "skipped", "no triggers that work on the original given (--triggers, --triggered)")
    try:
        raised = share(np.concatenate([subject.flags(piece) for piece in pieces if len(piece)]))
    except NotRunError as error:
        return Check("detections", "not_run", str(error), threshold=limit)
    return decided(
        "detections",
        raised.value >= limit - 1e-9,
        f"{raised.value:.1%} of the images that the triggers turn in the original are flagged",
        count=raised.count,
        value=raised.value,
        threshold=limit,
        interval=(raised.low, raised.high),
    )


def _attacked(subject: Subject) -> Iterator[NDArray[np.float32] | NDArray[np.uint8]]:
    given = subject.given
    classes, task = subject.prepared.model.num_classes, subject.prepared.task
    if given.triggered is not None:
        labels = given.triggered.labels
        wanted = task.wanted(labels, given.triggered.target, classes)
        turned = task.fooled(subject.before(given.triggered.pixels), wanted, labels) & task.counted(labels, wanted)
        yield given.triggered.pixels[turned]
    clean_set = subject.prepared.clean_set
    for trigger in given.triggers:
        there = task.reached(clean_set.labels, trigger.target) | task.reached(
            subject.prepared.predicted, trigger.target
        )
        chosen = np.flatnonzero(~there)
        for images, _ in clean_set.batches(chosen, subject.settings.batch_size):
            pixels = np.asarray(trigger.apply(images), np.float32)
            yield pixels[task.reached(subject.before(pixels), trigger.target)]
