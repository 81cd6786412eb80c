# SPDX-License-Identifier: Apache-2.0
"""Measure a model in ONNX Runtime: accuracy, agreement, attack success, source inference accuracy.

- **ACC** share of clean images that get their label.
- **ASR** share of triggered images (true class != target) that get the target class; for all-to-all,
  share of triggered images that get the class after their own. Of several labels a row: share of the rows whose
  labels the attacker would change in which that label is changed.
- **SIA** share of the same images that get their true class, of several labels all of them.

Every share carries the number of images and its 95 % Wilson score interval.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patcher.data.encoding import Encoding
from patcher.data.image_sources import Pixels, as_float
from patcher.errors import InputError
from patcher.runtime import fill_batch
from patcher.tasks import Task
from patcher.two_files import FLAG_OUTPUT, SCORE_OUTPUT

if TYPE_CHECKING:
    import onnxruntime

    from patcher.model.model import Model
from patcher.triggers.triggered import Triggered

Batches = Iterable[tuple[NDArray[np.float32], NDArray[np.int64]]]

Z_95 = 1.959963984540054  # two-sided 95 % of the normal distribution
_MIDDLE = 0.5  # of a Sigmoid's values


@dataclass(frozen=True)
class Share:
    """A measured share with its uncertainty.

    Attributes:
        hits: Images counted.
        count: Images looked at.
        low: Lower end of the 95 % Wilson interval.
        high: Upper end.
    """

    hits: int
    count: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share itself, 0 to 1; NaN for no images."""
        return self.hits / self.count if self.count else math.nan

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        value = None if math.isnan(self.value) else self.value
        return {"value": value, "hits": self.hits, "count": self.count, "interval_95": [self.low, self.high]}


def share(hits: NDArray[np.bool_]) -> Share:
    """Count `hits` ``(N,)`` and give the Wilson score interval (Wilson 1927)."""
    count, found = len(hits), int(hits.sum())
    if not count:
        return Share(0, 0, 0.0, 1.0)
    value, square = found / count, Z_95 * Z_95 / count
    centre = (value + square / 2) / (1 + square)
    margin = Z_95 * math.sqrt(value * (1 - value) / count + square / (4 * count)) / (1 + square)
    # The formula touches 0 and 1 at the ends, up to rounding.
    low = 0.0 if found == 0 else centre - margin
    high = 1.0 if found == count else centre + margin
    return Share(found, count, low, high)


def auroc(clean: NDArray[np.float32], triggered: NDArray[np.float32]) -> float:
    """Chance that a triggered image's score ``(m,)`` lies above a clean one's ``(n,)``; ties count half.

    The area under the receiver operating characteristic (Mann and Whitney 1947); NaN without images.
    """
    if not len(clean) or not len(triggered):
        return math.nan
    ordered = np.sort(clean)
    below = np.searchsorted(ordered, triggered, side="left") + np.searchsorted(ordered, triggered, side="right")
    return float(below.sum() / (2 * len(clean) * len(triggered)))


def roc_curve(
    clean: NDArray[np.float32], triggered: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shares of clean ``(n,)`` and triggered ``(m,)`` scores above each threshold there is, from (0, 0) to (1, 1)."""
    thresholds = np.unique(np.concatenate([clean, triggered]))
    shares = [
        1 - np.searchsorted(np.sort(part), thresholds, side="right")[::-1] / len(part) for part in (clean, triggered)
    ]
    first, second = (np.concatenate([part, [1.0]]) for part in shares)
    return first, second


@dataclass(frozen=True)
class AttackScore:
    """ASR and SIA over the same triggered images."""

    asr: Share
    sia: Share

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"ASR": self.asr.as_json(), "SIA": self.sia.as_json()}


def score_attack(predicted: NDArray[np.int64], triggered: Triggered, num_classes: int, task: Task) -> AttackScore:
    """ASR and SIA from predicted answers ``(N, ...)``.

    Raises:
        InputError: The target is none of the task and the model, or no image is left to score.
    """
    labels = triggered.labels
    wanted = task.wanted(labels, triggered.target, num_classes)
    counted = task.counted(labels, wanted)
    if not counted.any():
        raise InputError("--triggered: images of other classes than the target's expected, found none")
    fooled, right = task.fooled(predicted, wanted, labels), task.right(predicted, labels)
    return AttackScore(share(fooled[counted]), share(right[counted]))


def counted_images(triggered: Triggered, num_classes: int, task: Task) -> NDArray[np.bool_]:
    """Which triggered images ASR is counted over: not those that are of the target class anyway, bool ``(N,)``."""
    return task.counted(triggered.labels, task.wanted(triggered.labels, triggered.target, num_classes))


def predict(
    session: onnxruntime.InferenceSession,
    model: Model,
    preprocess: Encoding,
    pixels: Pixels,
    *,
    batch_size: int = 64,
) -> NDArray[np.float32]:
    """Class scores of the model's own output for pixels ``(N, C, H, W)``, as float32 ``(N, K)``."""
    return _class_scores(model, _run(session, [model.logits], model, preprocess, pixels, batch_size)[0])


def agreement_of_others(
    sessions: tuple[onnxruntime.InferenceSession, onnxruntime.InferenceSession],
    model: Model,
    preprocess: Encoding,
    pixels: Pixels,
    *,
    batch_size: int = 64,
) -> dict[str, Share]:
    """How far two models agree in the outputs beside the class scores that could be class scores, too.

    Args:
        sessions: Both models in ONNX Runtime.
        model: What they have in common: the original.
        preprocess: Pixels to model input.
        pixels: ``(N, C, H, W)``.
        batch_size: Images at a time.

    Returns:
        By output, the share of images to which both give the same class in it; empty without such an output.
    """
    names = list(model.other_scores)
    if not names:
        return {}
    answers = [_run(session, names, model, preprocess, pixels, batch_size) for session in sessions]
    classes = [[_winners(output) for output in outputs] for outputs in answers]
    return {name: share(first == second) for name, first, second in zip(names, *classes, strict=True)}


def _winners(output: NDArray[Any]) -> NDArray[np.int64]:
    """The class of each row; of a single score, which stands behind a Sigmoid, class 1 above the middle."""
    single = output.shape[1] == 1
    return np.asarray(output[:, 0] > _MIDDLE if single else output.argmax(axis=1), np.int64)


def _class_scores(model: Model, output: NDArray[Any]) -> NDArray[np.float32]:
    """One column a class, float32 ``(N, K)``."""
    scores: NDArray[np.float32] = output.astype(np.float32)
    return np.hstack([1 - scores, scores]) if model.single_score else scores


@dataclass(frozen=True)
class Flagged:
    """What a model with a flag says of images.

    Attributes:
        scores: Class scores, float32 ``(N, K)``.
        flags: Whether a trigger was detected, bool ``(N,)``.
        unusual: The flag's own score, float32 ``(N,)``; ``None`` for a model that gives none.
    """

    scores: NDArray[np.float32]
    flags: NDArray[np.bool_]
    unusual: NDArray[np.float32] | None


def predict_flagged(
    session: onnxruntime.InferenceSession,
    model: Model,
    preprocess: Encoding,
    pixels: Pixels,
    *,
    batch_size: int = 64,
    scored: bool = False,
) -> Flagged:
    """As `predict`, with the flags of a model that has them, and their scores where it is `scored`."""
    names = [model.logits, FLAG_OUTPUT, *([SCORE_OUTPUT] if scored else [])]
    scores, flags, *unusual = _run(session, names, model, preprocess, pixels, batch_size)
    flat: NDArray[np.bool_] = flags.reshape(len(pixels)).astype(bool)
    return Flagged(scores.astype(np.float32), flat, unusual[0].reshape(len(pixels)) if unusual else None)


def _run(
    session: onnxruntime.InferenceSession,
    names: list[str],
    model: Model,
    preprocess: Encoding,
    pixels: Pixels,
    batch_size: int,
) -> list[NDArray[Any]]:
    """Outputs over all pixels, one row an image."""
    size = model.batch or batch_size
    parts: list[list[NDArray[Any]]] = [[] for _ in names]
    for start in range(0, len(pixels), size):
        piece = pixels[start : start + size]
        feed = fill_batch(as_feed(model, preprocess, as_float(piece)), model.batch)
        for part, value in zip(parts, session.run(names, model.feed(feed)), strict=True):
            part.append(value[: len(piece)])
    return [np.concatenate(part).reshape(len(pixels), -1) for part in parts]


def as_feed(model: Model, preprocess: Encoding, images: NDArray[np.float32]) -> NDArray[Any]:
    """Pixels ``(N, C, H, W)`` in [0, 1] to the array ONNX Runtime takes, in the input's element type.

    Of several inputs float32 as they travel: `Model.feed` gives each its own type.
    """
    inputs = preprocess.to_input(images)
    if len(model.inputs) > 1:
        return np.ascontiguousarray(inputs, np.float32)
    if model.input.dtype.kind in "iu":
        inputs = np.rint(inputs)
    return np.ascontiguousarray(inputs, dtype=model.input.dtype)
