# SPDX-License-Identifier: Apache-2.0
"""Is the hardened model as good as the original on clean images?

Both models answer the same images, so the loss is a paired difference: of n images b were lost and c won,
the loss is (b - c) / n. Its 95 % interval is that of Bonett and Price (2012), which holds for few images:
with p = (b + 1) / (n + 2) and q = (c + 1) / (n + 2),   p - q +- 1.96 sqrt((p + q - (p - q)^2) / (n + 2)).

The whole set decides, and where the metadata names exactly these clean images, the gate's own held-out part of it
too: what the metadata says can only add a condition.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patcher.gate.check import Check, Interval, decided
from patcher.gate.subject import Subject
from patcher.measure.scores import agreement_of_others, share
from patcher.runtime import one_line, runtime_errors

_Z = 1.959963984540054


def clean_images_check(subject: Subject) -> Check:
    """There are enough clean images."""
    count = len(counted_images(subject)[0])
    wanted = subject.policy.thresholds.min_images
    held_out = counted_images(subject)[1]
    which = "held out" if held_out else "given"
    message = f"{count} images {which}, at least {wanted} expected"
    details = {"held_out_only": held_out, "pseudo_labels": subject.prepared.clean_set.pseudo_labels}
    found = {"count": count, "value": float(count), "threshold": float(wanted)}
    return decided("clean_images", count >= wanted, message, details=details, **found)


def accuracy_check(subject: Subject) -> Check:
    """Accuracy fell by no more than ``accuracy_drop``, and mAP, where the task has it, by no more than ``map_drop``."""
    limit = subject.policy.thresholds.accuracy_drop
    if subject.predicted is None:
        return Check("accuracy", "not_run", subject.failure, threshold=limit)
    task, labels = subject.prepared.task, subject.prepared.clean_set.labels
    hits = task.right(subject.prepared.predicted, labels), task.right(subject.predicted, labels)
    parts = [(hits[0][part], hits[1][part]) for part in (counted_images(subject)[0], slice(None))]
    before, after = max(parts, key=lambda pair: pair[0].mean() - pair[1].mean())
    drop = float(before.mean() - after.mean())
    details: dict[str, Any] = {"before": share(before).as_json(), "after": share(after).as_json()}
    message = f"{before.mean():.1%} before, {after.mean():.1%} after: a loss of {100 * drop:.1f} points"
    most = subject.policy.thresholds.map_drop
    figures = _figures(subject)
    for name, (old, new) in figures.items():
        message += f"; {name} {old:.1%} before, {new:.1%} after"
        details[name] = {"before": old, "after": new, "threshold": most}
    # Rounding must not decide: a loss of exactly the limit is allowed.
    return decided(
        "accuracy",
        drop <= limit + 1e-9 and all(old - new <= most + 1e-9 for old, new in figures.values()),
        message,
        count=len(before),
        value=drop,
        threshold=limit,
        interval=paired_interval(before, after),
        details=details,
    )


def _figures(subject: Subject) -> dict[str, tuple[float, float]]:
    """The task's further figures, before and after, of those images that decide on which they fell most."""
    prepared, scores = subject.prepared, subject.scores
    found: dict[str, tuple[float, float]] = {}
    for part in (counted_images(subject)[0], slice(None)):
        if prepared.task.exclusive or scores is None:
            continue
        labels = prepared.clean_set.labels[part]
        before, after = (prepared.task.figures(given[part], labels) for given in (prepared.scores, scores))
        for name in before:
            pairs = (found.get(name, (0.0, 1.0)), (before[name], after[name]))
            found[name] = max(pairs, key=lambda pair: pair[0] - pair[1])
    return found


def agreement_check(subject: Subject) -> Check:
    """Both models give clean images the same class, in every output that could be class scores; the worst decides."""
    limit = subject.policy.thresholds.agreement
    if subject.predicted is None:
        return Check("agreement", "not_run", subject.failure, threshold=limit)
    prepared, session = subject.prepared, subject.hardened.session
    found = {"": share(prepared.task.right(subject.predicted, prepared.predicted))}
    try:
        if session is not None:
            found |= agreement_of_others(
                (prepared.session, session),
                prepared.model,
                prepared.preprocess,
                prepared.clean_set.pixels,
                batch_size=subject.settings.batch_size,
            )
    except runtime_errors() as error:
        return Check("agreement", "not_run", one_line(error), threshold=limit)
    name, same = min(found.items(), key=lambda item: item[1].value)
    return decided(
        "agreement",
        same.value >= limit - 1e-9,
        f"{same.value:.1%} of the clean images keep their class" + (f" in the output {name!r}" if name else ""),
        count=same.count,
        value=same.value,
        threshold=limit,
        interval=(same.low, same.high),
    )


def counted_images(subject: Subject) -> tuple[NDArray[np.int64], bool]:
    """Indices of the images that decide, and whether these are a held-out part.

    Where the metadata names this clean set, calibration may have been fitted on it: then the gate's own held-out
    part, split by the gate's own seed, must hold the limit beside the whole set.
    """
    clean_set, found = subject.prepared.clean_set, subject.provenance
    if found is not None and found.clean_data_sha256 == clean_set.sha256 and len(clean_set.held_out):
        return clean_set.held_out, True
    return np.arange(len(clean_set)), False


def paired_interval(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> Interval:
    """95 % interval of the loss, from hits ``(N,)`` of both models on the same images."""
    count = len(before)
    lost = (int((before & ~after).sum()) + 1) / (count + 2)
    won = (int((~before & after).sum()) + 1) / (count + 2)
    margin = _Z * math.sqrt((lost + won - (lost - won) ** 2) / (count + 2))
    return max(-1.0, lost - won - margin), min(1.0, lost - won + margin)
