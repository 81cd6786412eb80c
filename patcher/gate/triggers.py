# SPDX-License-Identifier: Apache-2.0
"""Do triggers still work on the hardened model?

**Given triggers** have a target: their success is the ASR, the share of images of other classes that get it.

**Probes** have none, so their success is the largest share that goes to any one class: over the clean images
that neither carry class k nor got it from the original before,

    success = max over k of   share of those images that the hardened model gives k with the probe in them.

Leaving out what the original takes for k anyway keeps its clean confusion out of the figure; a clean network
loses some images to a probe too, but scattered over classes. Every probe is tried on a few images, the
worst on more, and only the second figure counts: the worst of a hundred small samples is high by chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patcher.gate.check import Check, decided
from patcher.gate.probes import Probe, built_in_probes
from patcher.gate.subject import NotRunError, Subject
from patcher.measure.scores import Share, score_attack, share
from patcher.tasks import Task
from patcher.triggers.trigger import Trigger
from patcher.triggers.triggered import Triggered

_MEASURED_PROBES = 5
_SHOWN_PICTURES = 4


@dataclass(frozen=True)
class Picture:
    """One clean picture, the same with a trigger, and what both models say.

    Attributes:
        trigger: Which trigger.
        clean: uint8 ``(C, H, W)``.
        triggered: uint8 ``(C, H, W)``.
        label: Its class.
        before: The original's class with the trigger.
        after: The hardened model's class with the trigger.
    """

    trigger: str
    clean: NDArray[np.uint8]
    triggered: NDArray[np.uint8]
    label: int
    before: int
    after: int


@dataclass(frozen=True)
class _Success:
    """How well a probe does on a model."""

    target: int
    rate: Share


def probes_check(subject: Subject) -> tuple[Check, list[Picture]]:
    """No built-in probe sends more than ``probe_success`` of the images to one class."""
    limit, settings = subject.policy.thresholds.probe_success, subject.policy.probes
    if not subject.prepared.model.is_picture:
        kind = subject.prepared.model.kind
        return Check("probes", "skipped", f"built-in probes are for pictures; the model takes {kind} inputs"), []
    clean_set = subject.prepared.clean_set
    order = np.random.default_rng(settings.seed).permutation(len(clean_set))
    probes = built_in_probes(clean_set.images(slice(0, 1)).shape[1:], patches=settings.patches, seed=settings.seed)
    few, many = order[: settings.screened], order[: settings.measured]
    try:
        screened = [(_measure(subject, probe, few), probe) for probe in probes]
        screened.sort(key=lambda item: -item[0].rate.value)
        worst = [(_measure(subject, probe, many), probe) for _, probe in screened[:_MEASURED_PROBES]]
    except NotRunError as error:
        return Check("probes", "not_run", str(error), threshold=limit), []
    worst.sort(key=lambda item: -item[0].rate.value)
    found, probe = worst[0]
    name = clean_set.class_names[found.target]
    details = {
        "probes": len(probes),
        "screened_images": len(few),
        "worst": [_row(subject, item, success, many) for success, item in worst],
    }
    check = decided(
        "probes",
        found.rate.value <= limit + 1e-9,
        f"the worst of {len(probes)} probes ({probe.name}) sends {found.rate.value:.1%} to class {name}",
        count=found.rate.count,
        value=found.rate.value,
        threshold=limit,
        interval=(found.rate.low, found.rate.high),
        details=details,
    )
    return check, _pictures(subject, probe.name, probe.apply, many[:_SHOWN_PICTURES])


def scanned_check(subject: Subject) -> tuple[Check, list[Picture]]:
    """No trigger of a scan reaches its target on more than ``trigger_success`` of its source images."""
    limit = subject.policy.thresholds.trigger_success
    triggers = subject.given.triggers
    if not triggers:
        return Check("scanned_triggers", "skipped", "no triggers given (--triggers)"), []
    chosen = np.arange(len(subject.prepared.clean_set))
    try:
        found = [(_trigger_success(subject, trigger, chosen), trigger) for trigger in triggers]
    except NotRunError as error:
        return Check("scanned_triggers", "not_run", str(error), threshold=limit), []
    found.sort(key=lambda item: -item[0][1].value)
    (before, after), trigger = found[0]
    rows = [
        {"family": item.family, "target": item.target, "before": first.as_json(), "after": second.as_json()}
        for (first, second), item in found
    ]
    check = decided(
        "scanned_triggers",
        after.value <= limit + 1e-9,
        f"the worst of {len(triggers)} triggers reaches class {trigger.target} with {after.value:.1%} "
        f"of the images, {before.value:.1%} in the original",
        count=after.count,
        value=after.value,
        threshold=limit,
        interval=(after.low, after.high),
        details={"triggers": rows},
    )
    shown = _sources(subject, trigger, chosen)[:_SHOWN_PICTURES]
    return check, _pictures(subject, f"scanned {trigger.family}", trigger.apply, shown)


def triggered_check(subject: Subject) -> tuple[Check, list[Picture]]:
    """The given triggered images reach the attacker's class on no more than ``trigger_success``."""
    limit = subject.policy.thresholds.trigger_success
    given = subject.given.triggered
    if given is None:
        return Check("triggered_images", "skipped", "no triggered images given (--triggered)"), []
    classes = subject.prepared.model.num_classes
    try:
        answers = subject.after(given.pixels)
    except NotRunError as error:
        return Check("triggered_images", "not_run", str(error), threshold=limit), []
    first = subject.before(given.pixels)
    task = subject.prepared.task
    before, after = score_attack(first, given, classes, task), score_attack(answers, given, classes, task)
    check = decided(
        "triggered_images",
        after.asr.value <= limit + 1e-9,
        f"{after.asr.value:.1%} reach the attacker's class, {before.asr.value:.1%} in the original; "
        f"{after.sia.value:.1%} get their own class",
        count=after.asr.count,
        value=after.asr.value,
        threshold=limit,
        interval=(after.asr.low, after.asr.high),
        details={"target": given.target, "before": before.as_json(), "after": after.as_json()},
    )
    return check, _given_pictures(given, first, answers) if _can_be_shown(subject) else []


def _measure(subject: Subject, probe: Probe, chosen: NDArray[np.int64], *, original: bool = False) -> _Success:
    clean_set = subject.prepared.clean_set
    pixels = probe.apply(clean_set.images(chosen))
    answers = subject.before(pixels) if original else subject.after(pixels)
    task = subject.prepared.task
    return _largest_flow(answers, clean_set.labels[chosen], subject.prepared.predicted[chosen], task)


def _largest_flow(
    answers: NDArray[np.int64], labels: NDArray[np.int64], clean: NDArray[np.int64], task: Task
) -> _Success:
    """The class that draws the largest share of images which had nothing to do with it, and that share."""
    found = []
    for target in task.given(answers):
        others = ~task.reached(labels, target) & ~task.reached(clean, target)
        if others.any():
            found.append(_Success(target, share(task.reached(answers, target)[others])))
    empty = _Success(next(iter(task.given(answers[:1])), 0), share(np.zeros(len(answers), bool)))
    return max(found, key=lambda item: item.rate.value, default=empty)


def _row(subject: Subject, probe: Probe, success: _Success, chosen: NDArray[np.int64]) -> dict[str, Any]:
    before = _measure(subject, probe, chosen, original=True)
    return {
        "probe": probe.name,
        "target": success.target,
        "after": success.rate.as_json(),
        "original_target": before.target,
        "original": before.rate.as_json(),
    }


def _sources(subject: Subject, trigger: Trigger, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """Images of the trigger's source classes; of all other classes than its target where none is left."""
    labels, task = subject.prepared.clean_set.labels[chosen], subject.prepared.task
    sources = task.carries(labels, trigger.target, trigger.sources)
    kept = chosen[sources] if trigger.sources and sources.any() else chosen[task.carries(labels, trigger.target)]
    return np.asarray(kept, np.int64)


def _trigger_success(subject: Subject, trigger: Trigger, chosen: NDArray[np.int64]) -> tuple[Share, Share]:
    """ASR in the original and in the hardened model."""
    clean_set, task = subject.prepared.clean_set, subject.prepared.task
    sources = _sources(subject, trigger, chosen)
    hits: tuple[list[Any], list[Any]] = ([], [])
    for images, _ in clean_set.batches(sources, subject.settings.batch_size):
        pixels = np.asarray(trigger.apply(images), np.float32)
        hits[0].append(task.reached(subject.before(pixels), trigger.target))
        hits[1].append(task.reached(subject.after(pixels), trigger.target))
    return share(np.concatenate(hits[0])), share(np.concatenate(hits[1]))


def _pictures(subject: Subject, name: str, apply: Any, chosen: NDArray[np.int64]) -> list[Picture]:
    if not _can_be_shown(subject):
        return []
    images = subject.prepared.clean_set.images(chosen)
    altered = np.asarray(apply(images), np.float32)
    before, after = subject.before(altered), subject.after(altered)
    labels = subject.prepared.clean_set.labels[chosen]
    return [
        Picture(name, as_bytes(images[i]), as_bytes(altered[i]), int(labels[i]), int(before[i]), int(after[i]))
        for i in range(len(chosen))
    ]


def _given_pictures(given: Triggered, before: NDArray[np.int64], after: NDArray[np.int64]) -> list[Picture]:
    shown = range(min(_SHOWN_PICTURES, len(given.labels)))
    pixels = [as_bytes(given.pixels[index]) for index in shown]
    return [
        Picture("given images", pixels[i], pixels[i], int(given.labels[i]), int(before[i]), int(after[i]))
        for i in shown
    ]


def _can_be_shown(subject: Subject) -> bool:
    """Pictures with one class each; of arrays and sets of labels the figures have to do."""
    return subject.prepared.model.is_picture and subject.prepared.task.exclusive


def as_bytes(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Pixels as uint8, 0 to 255."""
    return np.asarray(pixels if pixels.dtype == np.uint8 else np.rint(255 * np.clip(pixels, 0, 1)), np.uint8)
