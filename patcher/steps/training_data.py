# SPDX-License-Identifier: Apache-2.0
"""Which images a method is fitted on, and which its result is measured on.

A method for ``clean`` data gets the clean set, split in *fit* and *held-out*. A method for ``training`` data
gets the training set, and beside it the clean set if there is one: nothing is fitted on that, so all of it
is held out. Without one, the result is measured on the training images that are not suspected.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from patcher.calibrate import Calibration
from patcher.calibrate.stack import Stack
from patcher.data.arrays import Arrays
from patcher.data.clean_set import HELD_OUT_SHARE, CleanSet, read_clean_set
from patcher.data.preprocess import Preprocess
from patcher.errors import InputError
from patcher.files import Source
from patcher.model.inputs import refuse_arrays
from patcher.model.model import Model
from patcher.settings import Settings
from patcher.steps.prepare import Prepared, prepare


@dataclass(frozen=True)
class Data:
    """Images for one method.

    Attributes:
        prepared: The model and the images that it is measured on.
        clean_set: The clean images; ``None`` where there is only a training set.
        further: Keyword arguments of the method's ``calibrate``.
    """

    prepared: Prepared
    clean_set: CleanSet | None
    further: Mapping[str, Any] = field(default_factory=dict)


def read_data(
    model: Model,
    stack: Stack,
    clean_dir: Source | None,
    options: Sequence[Any],
    preprocess: Preprocess | Arrays,
    settings: Settings,
) -> Data:
    """Read what methods need, and measure the model on it.

    Args:
        model: The classifier.
        stack: The methods; one that needs a training set stands alone.
        clean_dir: Clean images, if any.
        options: The methods' own options; for a training set ``train_dir`` among them.
        preprocess: How pictures become the model's input.
        settings: Shared settings.

    Raises:
        InputError: The images that the method needs were not given or cannot be used.
    """
    if all(method.data == "clean" for method in stack.methods):
        if clean_dir is None:
            raise InputError(f"method {stack.name} needs clean images; give them with --clean-dir")
        classes = max(method.least_classes for method in stack.methods)
        prepared = prepare(model, clean_dir, preprocess, settings, least_classes=classes)
        _check_count(prepared.clean_set, settings)
        return Data(prepared, prepared.clean_set)
    refuse_arrays(model.kind, f"method {stack.name}")
    train_dir = options[0].train_dir
    if train_dir is None:
        raise InputError(f"method {stack.name} needs the training set; give it with --train-dir")
    # A limit is meant for clean images: a training set is judged whole.
    whole = replace(settings, limit_per_class=None)
    if clean_dir is None:
        prepared = prepare(model, train_dir, preprocess, whole)
        everything = prepared.clean_set.everything
        prepared = replace(prepared, clean_set=replace(prepared.clean_set, fit=everything, held_out=everything[:0]))
        return Data(prepared, None, {"training_set": prepared.clean_set})
    training_set = read_clean_set(
        str(train_dir), model, preprocess, seed=settings.seed, classes_file=settings.classes_file
    )
    prepared = prepare(model, clean_dir, preprocess, settings)
    everything = prepared.clean_set.everything
    prepared = replace(prepared, clean_set=replace(prepared.clean_set, fit=everything[:0], held_out=everything))
    return Data(prepared, prepared.clean_set, {"training_set": training_set})


def _check_count(clean_set: CleanSet, settings: Settings) -> None:
    """Refuse, before anything is fitted, to decide on a handful of images."""
    count, wanted = len(clean_set.deciding), settings.min_held_out
    if count < wanted:
        total = math.ceil(wanted / HELD_OUT_SHARE) if len(clean_set.held_out) else wanted
        raise InputError(
            f"--clean-dir: at least {wanted} images to decide on expected, found {count} {clean_set.deciding_split} of "
            f"{len(clean_set)}; give about {total} images, or lower --min-held-out"
        )


def without_suspects(data: Data, calibration: Calibration) -> Prepared:
    """What the result is measured on: of a training set, the images that are not suspected."""
    if data.clean_set is not None or calibration.findings is None:
        return data.prepared
    clean_set = data.prepared.clean_set
    benign = np.setdiff1d(clean_set.fit, calibration.findings.indices)
    return replace(data.prepared, clean_set=replace(clean_set, fit=benign))


def with_checkpoint(stacks: Sequence[Stack], output: Source | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with a place for the state of a long run: beside the output, where none was named."""
    if (
        any(item.data == "training" for stack in stacks for item in stack.methods)
        and output is not None
        and options.get("checkpoint") is None
    ):
        return {**options, "checkpoint": f"{output}.checkpoint"}
    return dict(options)


def remove_checkpoint(options: Mapping[str, Any]) -> None:
    """Drop the state of a run that has ended."""
    if options.get("checkpoint") is not None:
        Path(options["checkpoint"]).unlink(missing_ok=True)
