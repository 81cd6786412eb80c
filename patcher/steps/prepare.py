# SPDX-License-Identifier: Apache-2.0
"""What every command that measures needs first: the model, its preprocessing, clean images, its accuracy.

Accuracy comes first: a preprocessing mismatch is the most common cause of wrong verdicts, so below a
floor nothing is calibrated, and the error names the flags to check.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patcher.data.clean_set import CleanSet, read_clean_set
from patcher.data.preprocess import Preprocess
from patcher.errors import InputError
from patcher.files import Source
from patcher.measure.confusion import mistaken_classes
from patcher.measure.scores import Share, predict, share
from patcher.model.file import loadable
from patcher.model.model import Model
from patcher.runtime import create_session
from patcher.settings import Settings
from patcher.steps.batches import fitting_batch

if TYPE_CHECKING:
    import onnx
    import onnxruntime

_log = logging.getLogger(__name__)
_FLOOR_OVER_CHANCE = 2.0


@dataclass(frozen=True)
class Prepared:
    """A model and the clean images it was measured on.

    Attributes:
        model: The classifier.
        preprocess: Pixels to model input.
        clean_set: Images, labels and split.
        predicted: The model's classes for all clean images, int64 ``(N,)``.
        accuracy: Over all clean images.
        session: The model in ONNX Runtime.
    """

    model: Model
    preprocess: Preprocess
    clean_set: CleanSet
    predicted: NDArray[np.int64]
    accuracy: Share
    session: onnxruntime.InferenceSession


def prepare(
    model: Model, clean_dir: Source, preprocess: Preprocess, settings: Settings, *, least_classes: int = 2
) -> Prepared:
    """Read the clean images and measure the model on them in ONNX Runtime.

    Args:
        model: The classifier.
        clean_dir: See `patcher.data.clean_set`.
        preprocess: How pictures become the model's input.
        settings: Seed, batch size, providers, floor.
        least_classes: Refuse images of fewer classes.

    Raises:
        InputError: Nothing usable was found, or the accuracy is below the floor.
    """
    session = open_session(model.proto, settings)

    def own_answers(pixels: NDArray[Any]) -> NDArray[np.int64]:
        size = fitting_batch(model, pixels, settings.batch_size)
        scores = predict(session, model, preprocess, pixels, batch_size=size)
        return np.asarray(scores.argmax(axis=1), np.int64)

    clean_set = read_clean_set(
        str(clean_dir),
        model,
        preprocess,
        seed=settings.seed,
        classes_file=settings.classes_file,
        limit_per_class=settings.limit_per_class,
        labeller=own_answers if settings.pseudo_labels else None,
        least_classes=least_classes,
    )
    predicted = own_answers(clean_set.pixels)
    accuracy = share(predicted == clean_set.labels)
    chance = 1 / model.num_classes
    # Twice chance would be 100 % of two classes: never more than half way from chance to perfect.
    default = min(_FLOOR_OVER_CHANCE * chance, (1 + chance) / 2)
    floor = default if settings.accuracy_floor is None else settings.accuracy_floor
    _log.info("accuracy of the model on %d clean images: %.4f", len(clean_set), accuracy.value)
    if accuracy.value < floor:
        mistaken = "; ".join(mistaken_classes(clean_set.labels, predicted))
        raise InputError(
            f"accuracy on the clean images is {accuracy.value:.1%}, at least {floor:.1%} expected "
            f"(chance is {chance:.1%}): check --mean, --std, --range, --color, --size and the class order "
            f"(--classes), or lower --accuracy-floor{'; ' if mistaken else ''}{mistaken}"
        )
    return Prepared(model, preprocess, clean_set, predicted, accuracy, session)


def open_session(proto: onnx.ModelProto, settings: Settings) -> onnxruntime.InferenceSession:
    """A strict ONNX Runtime session of a model in memory, at the default optimisation level."""
    with loadable(proto) as source:
        return create_session(source, providers=settings.providers)
