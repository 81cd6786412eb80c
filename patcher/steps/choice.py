# SPDX-License-Identifier: Apache-2.0
"""How ``--method auto`` came to its result: what a scan found, what was tried, and what each did."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from patcher.data.clean_set import CleanSet
from patcher.measure.scores import Share, share
from patcher.model.model import Model
from patcher.patch import Correction
from patcher.triggers.trigger import Trigger

if TYPE_CHECKING:
    from torch import Tensor

    from patcher.calibrate.run import Run


@dataclass(frozen=True)
class Evidence:
    """What a scan found.

    Attributes:
        level: Its verdict; ``given`` for a trigger file.
        reasons: Why, one sentence each.
        families: Kinds of trigger that were searched.
        triggers: What it found.
    """

    level: str
    reasons: tuple[str, ...]
    families: tuple[str, ...]
    triggers: tuple[Trigger, ...]


def read_evidence(options: Mapping[str, Any], model: Model, clean_set: CleanSet) -> Evidence:
    """Evidence as ``scan`` or ``triggers`` among `options` names it.

    Raises:
        InputError: Both are there, or a file is missing, damaged or for another model.
    """
    from patcher.calibrate.triggered import estimated_triggers

    triggers, level = estimated_triggers(options.get("triggers"), options.get("scan"), model, clean_set) or ((), "")
    reasons: tuple[str, ...] = ()
    families = dict.fromkeys(item.family for item in triggers)
    if options.get("scan"):
        document = json.loads(Path(options["scan"]).read_text(encoding="utf-8"))
        reasons = tuple(document.get("reasons", ()))
        families = dict.fromkeys(item["family"] for item in document.get("searched", ()))
    return Evidence(level, reasons, tuple(families), triggers)


@dataclass(frozen=True)
class Outcome:
    """What a model does with clean images, and with held-out ones that carry a found trigger.

    Attributes:
        accuracy: On all clean images.
        asr: Share of the held-out images with a found trigger that get its target; ``None`` where none was found.
        sia: Share of them that get their own class.
    """

    accuracy: Share
    asr: Share | None = None
    sia: Share | None = None

    @property
    def worth(self) -> float:
        """What candidates are compared by: accuracy, and how much is undone."""
        if self.asr is None or self.sia is None:
            return self.accuracy.value
        return self.accuracy.value + self.sia.value - self.asr.value

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        shares = {"ACC": self.accuracy, "ASR": self.asr, "SIA": self.sia}
        return {name: value.as_json() for name, value in shares.items() if value is not None}


@dataclass(frozen=True)
class Candidate:
    """One stack of methods that was tried.

    Attributes:
        name: The stack.
        outcome: What it does; ``None`` where it could not be fitted.
        satisfied: Whether it holds its accuracy condition, on held-out images and on all.
        reason: Why it could not be fitted; empty where it could.
    """

    name: str
    outcome: Outcome | None = None
    satisfied: bool = False
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        measured = self.outcome.as_json() if self.outcome else {}
        return {"name": self.name, "satisfied": self.satisfied, "reason": self.reason, **measured}


@dataclass(frozen=True)
class Choice:
    """How ``auto`` came to its result.

    Attributes:
        evidence: What was looked for and found.
        before: What the original does.
        candidates: What was tried, in order.
        chosen: Name of the candidate that was taken; empty where the model stays as it is.
        epsilon: Accuracy that it could lose, 0 to 1.
    """

    evidence: Evidence
    before: Outcome
    candidates: tuple[Candidate, ...]
    chosen: str
    epsilon: float

    @property
    def outcome(self) -> Outcome:
        """What the result does."""
        return next(
            (item.outcome for item in self.candidates if item.name == self.chosen and item.outcome), self.before
        )


def measure_outcome(
    run: Run, corrections: Sequence[Correction], clean_set: CleanSet, triggers: Sequence[Trigger]
) -> Outcome:
    """What a patched model does.

    Accuracy is that of all clean images: the best of many states by few held-out images is a lucky one, and a patch of
    a bound or a mask a channel hardly remembers images that it was fitted on.

    Args:
        run: The model.
        corrections: Of the patch.
        clean_set: Clean images.
        triggers: As a scan found them; each held-out source image carries one a target (fit images where nothing is
            held out).
    """
    import torch

    from patcher.calibrate.patched import run_patch
    from patcher.calibrate.triggered import TriggerSet

    classifier, task = run.classifier, run.classifier.task

    def raw(images: Tensor) -> Tensor:
        return run_patch(classifier, corrections, images)[classifier.model.logits].flatten(1)

    everything = classifier.batches(clean_set, clean_set.everything, run.batch_size)
    plain = [task.hits(classifier.as_logits(raw(images)), labels) for images, labels in everything]
    batches = list(classifier.batches(clean_set, clean_set.deciding, run.batch_size)) if triggers else []
    fooled, right = [], []
    for target in sorted({item.target for item in triggers}):
        attack = TriggerSet([item for item in triggers if item.target == target], classifier.model.num_classes, task)
        for images, labels in batches:
            chosen = attack.is_source(labels)
            if bool(chosen.any()):
                scores = raw(attack.put(images[chosen], labels[chosen]))
                found = task.answers(scores.float().cpu().numpy(), classifier.model.head)
                fooled.append(torch.from_numpy(task.reached(found, target)))
                right.append(torch.from_numpy(task.right(found, labels[chosen].cpu().numpy())))
    return Outcome(_share(plain), _share(fooled) if fooled else None, _share(right) if right else None)


def _share(parts: Sequence[Tensor]) -> Share:
    return share(np.concatenate([part.cpu().numpy() for part in parts]))
