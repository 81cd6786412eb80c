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

from patcher.data.arrays import Arrays
from patcher.data.clean_set import CleanSet, read_clean_set
from patcher.data.preprocess import Preprocess
from patcher.errors import InputError
from patcher.files import Source
from patcher.measure.scores import Share, predict, share
from patcher.model.file import loadable
from patcher.model.model import Model
from patcher.runtime import create_session
from patcher.settings import Settings
from patcher.steps.batches import fitting_batch
from patcher.tasks import Task

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
        scores: The model's class scores for all clean images, float32 ``(N, K)``.
        predicted: Its answers to them, int64 ``(N,)``, or ``(N, K)`` as the task has them.
        accuracy: Over all clean images.
        session: The model in ONNX Runtime.
    """

    model: Model
    preprocess: Preprocess | Arrays
    clean_set: CleanSet
    scores: NDArray[np.float32]
    predicted: NDArray[np.int64]
    accuracy: Share
    session: onnxruntime.InferenceSession

    @property
    def task(self) -> Task:
        """What scores and labels mean."""
        return self.clean_set.task


def prepare(
    model: Model, clean_dir: Source, preprocess: Preprocess | Arrays, settings: Settings, *, least_classes: int = 2
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

    answered: list[tuple[Any, NDArray[np.float32]]] = []

    def own_scores(pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Of pixels that were the last to be asked for, the same again."""
        if not answered or answered[-1][0] is not pixels:
            size = fitting_batch(model, pixels, settings.batch_size)
            answered[:] = [(pixels, predict(session, model, preprocess, pixels, batch_size=size))]
        return answered[-1][1]

    def own_answers(pixels: NDArray[Any], task: Task) -> NDArray[np.int64]:
        return task.answers(own_scores(pixels), model.head)

    clean_set = read_clean_set(
        str(clean_dir),
        model,
        preprocess,
        task=settings.task,
        seed=settings.seed,
        classes_file=settings.classes_file,
        limit_per_class=settings.limit_per_class,
        labeller=own_answers if settings.pseudo_labels else None,
        least_classes=least_classes,
    )
    task, labels = clean_set.task, clean_set.labels
    scores = own_scores(clean_set.pixels)
    predicted = task.answers(scores, model.head)
    accuracy = share(task.right(predicted, labels))
    chance = task.chance(labels, model.num_classes)
    # Twice chance would be 100 % of two classes: never more than half way from chance to perfect.
    default = min(_FLOOR_OVER_CHANCE * chance, (1 + chance) / 2)
    floor = default if settings.accuracy_floor is None else settings.accuracy_floor
    _log.info("accuracy of the model on %d clean images: %.4f", len(clean_set), accuracy.value)
    if accuracy.value < floor:
        mistaken = "; ".join(task.mistaken(labels, predicted))
        flags = "--mean, --std, --range, --color, --size" if model.is_picture else "--task, the values of the arrays"
        raise InputError(
            f"accuracy on the clean images is {accuracy.value:.1%}, at least {floor:.1%} expected "
            f"(chance is {chance:.1%}): check {flags} and the class order "
            f"(--classes), or lower --accuracy-floor{'; ' if mistaken else ''}{mistaken}"
        )
    return Prepared(model, preprocess, clean_set, scores, predicted, accuracy, session)


def open_session(proto: onnx.ModelProto, settings: Settings) -> onnxruntime.InferenceSession:
    """A strict ONNX Runtime session of a model in memory, at the default optimisation level."""
    with loadable(proto) as source:
        return create_session(source, providers=settings.providers)
