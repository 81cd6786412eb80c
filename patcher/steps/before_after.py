# SPDX-License-Identifier: Apache-2.0
"""Before against after, in ONNX Runtime: accuracy, agreement, attack, size, nodes, latency."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patcher.measure.change import AttackChange, Change
from patcher.measure.latency import Latency, paired_latency
from patcher.measure.scores import AttackScore, Share, agreement_of_others, as_feed, predict, score_attack, share
from patcher.settings import Settings
from patcher.steps.flags import Detection, measure_detection
from patcher.steps.prepare import Prepared, open_session
from patcher.triggers.triggered import Triggered
from patcher.two_files import TwoFileSession

if TYPE_CHECKING:
    import onnx
    import onnxruntime

_LATENCY_BATCH = 8


@dataclass(frozen=True)
class Side:
    """One column of the before/after table.

    Attributes:
        fit: Accuracy on the *fit* images.
        held_out: Accuracy on the *held-out* images.
        attack: ASR and SIA, where triggered images were given.
        detection: TPR and FPR, where the model has a flag.
        figures: Further figures of the task, by name, on the images that decide.
    """

    fit: Share
    held_out: Share
    attack: AttackScore | None
    detection: Detection | None = None
    figures: Mapping[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        values: dict[str, Any] = {"fit": self.fit.as_json(), "held_out": self.held_out.as_json()}
        if self.attack is not None:
            values["attack"] = self.attack.as_json()
        if self.detection is not None:
            values["detection"] = self.detection.as_json()
        if self.figures:
            values["figures"] = dict(self.figures)
        return values


@dataclass(frozen=True)
class Measured:
    """The whole comparison.

    Attributes:
        before: The original.
        after: The hardened model.
        agreement: Share of all clean images on which both give the same class.
        nodes_added: Count by operator.
        bytes_before: Size of the serialised original.
        bytes_after: Size of the serialised hardened model.
        latency: Paired runs.
        predicted: The hardened model's classes for all clean images, int64 ``(N,)``.
        others: The agreement in other outputs that could be class scores, by output.
    """

    before: Side
    after: Side
    agreement: Share
    nodes_added: dict[str, int]
    bytes_before: int
    bytes_after: int
    latency: Latency
    predicted: NDArray[np.int64]
    others: Mapping[str, Share]

    @property
    def accuracy(self) -> Change[Share]:
        """On the held-out images; on the fit images where nothing is held out."""
        if self.before.held_out.count:
            return Change(self.before.held_out, self.after.held_out)
        return Change(self.before.fit, self.after.fit)

    @property
    def attack(self) -> AttackChange | None:
        """On the triggered images; ``None`` where none were given."""
        before, after = self.before.attack, self.after.attack
        if before is None or after is None:
            return None
        return AttackChange(Change(before.asr, after.asr), Change(before.sia, after.sia))


def measure(
    prepared: Prepared,
    hardened: onnx.ModelProto,
    attack: Triggered | None,
    settings: Settings,
    *,
    guard: onnx.ModelProto | None = None,
) -> Measured:
    """Compare the hardened model with the original.

    Args:
        prepared: The original and its clean images.
        hardened: The hardened model.
        attack: Triggered images, if any; only scored.
        settings: Batch size and providers.
        guard: The second file of a hardened model, if it has one.
    """
    model, clean_set, session = prepared.model, prepared.clean_set, open_session(hardened, settings)
    if guard is not None:
        session = TwoFileSession(session, open_session(guard, settings))
    task, decide = prepared.task, clean_set.deciding
    scores = predict(session, model, prepared.preprocess, clean_set.pixels, batch_size=settings.batch_size)
    predicted = task.answers(scores, model.head)

    def side(chosen: onnxruntime.InferenceSession, answers: NDArray[np.int64], given: NDArray[np.float32]) -> Side:
        hits = task.right(answers, clean_set.labels)
        scored = score(chosen, prepared, attack, settings) if attack else None
        detection = measure_detection(chosen, prepared, attack, settings)
        figures = task.figures(given[decide], clean_set.labels[decide])
        return Side(share(hits[clean_set.fit]), share(hits[clean_set.held_out]), scored, detection, figures)

    return Measured(
        before=side(prepared.session, prepared.predicted, prepared.scores),
        after=side(session, predicted, scores),
        agreement=share(task.right(predicted, prepared.predicted)),
        nodes_added=_nodes_added(model.proto, hardened),
        bytes_before=model.proto.ByteSize(),
        bytes_after=hardened.ByteSize() + (guard.ByteSize() if guard is not None else 0),
        latency=paired_latency(prepared.session, session, model.feed(_latency_batch(prepared))),
        predicted=np.asarray(predicted, np.int64),
        others=agreement_of_others(
            (prepared.session, session), model, prepared.preprocess, clean_set.pixels, batch_size=settings.batch_size
        ),
    )


def score(
    session: onnxruntime.InferenceSession, prepared: Prepared, attack: Triggered, settings: Settings
) -> AttackScore:
    """ASR and SIA of a session on triggered images."""
    model = prepared.model
    scores = predict(session, model, prepared.preprocess, attack.pixels, batch_size=settings.batch_size)
    return score_attack(prepared.task.answers(scores, model.head), attack, model.num_classes, prepared.task)


def _latency_batch(prepared: Prepared) -> NDArray[Any]:
    """Clean images as one feed: the model's fixed batch, or eight."""
    count = prepared.model.batch or _LATENCY_BATCH
    images = prepared.clean_set.images(np.arange(count) % len(prepared.clean_set))
    return as_feed(prepared.model, prepared.preprocess, images)


def _nodes_added(before: onnx.ModelProto, after: onnx.ModelProto) -> dict[str, int]:
    """How many more nodes of each operator the second graph has."""
    count = Counter(node.op_type for node in after.graph.node)
    count.subtract(node.op_type for node in before.graph.node)
    return {name: number for name, number in sorted(count.items()) if number}
