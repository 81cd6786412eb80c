# SPDX-License-Identifier: Apache-2.0
"""Estimated triggers of an earlier scan, and clean pictures with them under their true labels (NFT, Eq. 3)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from patcher.calibrate.classifier import Classifier, Rewrite
from patcher.data.clean_set import CleanSet, Indices
from patcher.errors import InputError
from patcher.model.model import Model
from patcher.tasks import SINGLE_LABEL, Task
from patcher.triggers.file import TRIGGERS, read_triggers
from patcher.triggers.trigger import Trigger


def estimated_triggers(
    triggers: str | None, scan: str | None, model: Model, clean_set: CleanSet
) -> tuple[tuple[Trigger, ...], str] | None:
    """Triggers as an earlier scan left them.

    Args:
        triggers: A trigger file; excludes `scan`.
        scan: The ``scan.json`` of this model, with its ``triggers.npz`` beside it if anything was found.
        model: The model.
        clean_set: Its pictures.

    Returns:
        The triggers and the scan's verdict (``given`` for a trigger file); ``None`` where neither is given.

    Raises:
        InputError: Both are given, or a file is missing, damaged or for another model.
    """
    if triggers and scan:
        raise InputError("--scan: not together with --triggers; a scan has its own triggers beside it")
    if triggers:
        return _checked(triggers, "--triggers", clean_set), "given"
    if not scan:
        return None
    try:
        document = json.loads(Path(scan).read_text(encoding="utf-8"))
        verdict, scanned = str(document["verdict"]), str(document["model"]["sha256"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"--scan: {scan}: a scan.json written by 'patcher scan' expected") from None
    if scanned != model.sha256:
        raise InputError(
            f"--scan: {scan}: a scan of this model (sha256 {model.sha256[:12]}...) expected, "
            f"found one of {scanned[:12]}..."
        )
    # A class that is too close without a trigger that any family found is suspicious and leaves no file.
    if verdict not in ("backdoor", "suspicious") or document.get("triggers") == 0:
        return (), verdict
    return _checked(str(Path(scan).with_name(TRIGGERS)), "--scan", clean_set), verdict


def _checked(path: str, flag: str, images: CleanSet) -> tuple[Trigger, ...]:
    """Triggers of a file, for pictures of this size and for these classes."""
    triggers, shape, classes = read_triggers(path), tuple(images.pixels.shape[1:]), len(images.class_names)
    for item in triggers:
        if item.shape != shape:
            raise InputError(f"{flag}: triggers for pictures of {shape} expected, found {item.shape}; scan again")
        if not 0 <= item.target < classes or max(item.sources, default=0) >= classes:
            raise InputError(f"{flag}: classes 0 to {classes - 1} expected, found target {item.target}; scan again")
    return triggers


def stamp(
    images: Tensor,
    labels: Tensor,
    triggers: Sequence[Trigger],
    rng: np.random.Generator | None,
    task: Task = SINGLE_LABEL,
) -> tuple[Tensor, Tensor]:
    """Put a trigger into every picture whose class is a source of one.

    Args:
        images: Pixels ``(N, C, H, W)`` in [0, 1].
        labels: int64 ``(N,)``, or as the task has them.
        triggers: Estimated triggers.
        rng: Chooses among several triggers of one class; without it the picture itself does, so that it gets the
            same one in every batch.
        task: What labels mean.

    Returns:
        The pixels, and bool ``(N,)``: which pictures carry a trigger now.
    """
    classes = labels.cpu().numpy()
    suits = np.array([task.carries(classes, item.target, item.sources) for item in triggers])
    if rng is None:
        # Integers: their sum is the same in whatever order it is made.
        levels = (images * 255).round().long().flatten(1).sum(dim=1).cpu().numpy()
        places = suits.cumsum(axis=0) - 1 == levels % np.maximum(1, suits.sum(axis=0))
        chosen = (places & suits).argmax(axis=0)
    else:
        chosen = np.where(suits, rng.random(suits.shape), np.inf).argmin(axis=0)
    stamped = images.clone()
    for number, item in enumerate(triggers):
        rows = torch.from_numpy(np.flatnonzero(suits.any(axis=0) & (chosen == number))).to(images.device)
        if len(rows):
            stamped[rows] = item.apply(images[rows])
    return stamped, torch.from_numpy(suits.any(axis=0)).to(images.device)


@torch.no_grad()
def triggered_loss(
    classifier: Classifier,
    clean_set: CleanSet,
    indices: Indices,
    triggers: Sequence[Trigger],
    *,
    batch_size: int,
    rewrite: Rewrite | None = None,
) -> float:
    """Mean cross-entropy of the stamped pictures at `indices` with their true labels; 0 where none can be stamped."""
    total, count = 0.0, 0
    for images, labels in classifier.batches(clean_set, indices, batch_size):
        stamped, carries = stamp(images, labels, triggers, None, classifier.task)
        if carries.any():
            logits = classifier.logits(stamped[carries], rewrite=rewrite)
            total += float(classifier.task.loss(logits, labels[carries], reduction="sum"))
            count += int(carries.sum())
    return total / max(1, count)


class TriggerSet:
    """The triggers of one target; where a class is a source of several, each of its images takes one of them.

    Args:
        triggers: At least one, all of one target; one without sources stands for all other classes.
        classes: Number of classes.
        task: What labels mean.

    Attributes:
        target: Their target class.
        sources: Their source classes, in order.
    """

    def __init__(self, triggers: Sequence[Trigger], classes: int, task: Task = SINGLE_LABEL) -> None:
        self._triggers, self._task, self.target = triggers, task, triggers[0].target
        named = {source for trigger in triggers for source in trigger.sources or range(classes)}
        self.sources = tuple(sorted(named - {self.target}))

    def is_source(self, labels: Tensor) -> Tensor:
        """Whether each row with these labels is one that the triggers are about: bool ``(n,)``."""
        found = self._task.carries(labels.cpu().numpy(), self.target, self.sources)
        return torch.from_numpy(found).to(labels.device)

    def put(self, images: Tensor, labels: Tensor) -> Tensor:
        """Put the triggers into the images of their source classes; others stay as they are."""
        return stamp(images, labels, self._triggers, None, self._task)[0]

    def batches(self, batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """The same batches with triggers in them."""
        for images, labels in batches:
            yield self.put(images, labels), labels
