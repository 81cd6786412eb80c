# SPDX-License-Identifier: Apache-2.0
"""The clean set: the few labelled images the user trusts, and their split.

Read from an ImageFolder (``class/xxx.png``, class index = place in the sorted folder names, as in
torchvision), a flat folder (labels are then the model's own answers), an ``.npz`` with ``images`` and
``labels``, ``module:function`` returning an ONNX Runtime ``CalibrationDataReader``, or what `annotations`
and `layouts` know.

The split is 80/20, class-balanced and seeded. Corrections are fitted on *fit*; whether accuracy held
is always decided on *held-out*.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from patcher.data.annotations import is_annotated, read_annotated
from patcher.data.array_sources import read_array_file, read_array_reader
from patcher.data.arrays import Arrays
from patcher.data.class_names import read_class_names
from patcher.data.image_sources import Pictures, Pixels, as_float, read_folder, read_npz, read_reader
from patcher.data.layouts import layout_of
from patcher.data.preprocess import Preprocess
from patcher.errors import InputError
from patcher.model.model import Model
from patcher.tasks import AUTO, MULTI_LABEL, SINGLE_LABEL, Task, task_of

HELD_OUT_SHARE = 0.2
Indices = NDArray[np.int64]
Labeller = Callable[[Pixels, Task], NDArray[np.int64]]


@dataclass(frozen=True)
class CleanSet:
    """Images, labels and the fixed split.

    Attributes:
        pixels: ``(N, C, H, W)`` RGB before normalisation: uint8 as read from pictures, or float32 in
            [0, 1]; `images` gives float32 either way. Of arrays float32 ``(N, ...)``, see `patcher.data.arrays`.
        labels: int64 ``(N,)``, or ``(N, K)`` as the task has them.
        class_names: One name a class of the model, in class order.
        fit: Indices of the images that corrections are fitted on.
        held_out: Indices of the images that decide; empty when no class has two images.
        sha256: Hash of what was read: names, labels and file contents.
        pseudo_labels: Whether the labels are the model's own answers.
        files: Path of each image below its folder; empty where the source has none.
        class_order: Where the order of the classes comes from, in words; empty where the labels are numbers.
        task: What the labels mean.
    """

    pixels: Pixels
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    fit: Indices
    held_out: Indices
    sha256: str
    pseudo_labels: bool = False
    files: tuple[str, ...] = ()
    class_order: str = ""
    task: Task = SINGLE_LABEL

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    @property
    def everything(self) -> Indices:
        """Indices of all images."""
        return np.arange(len(self))

    @property
    def deciding(self) -> Indices:
        """Indices of the images that decide: *held-out*, or *fit* where nothing is held out."""
        return self.held_out if len(self.held_out) else self.fit

    @property
    def deciding_split(self) -> Literal["held-out", "fit"]:
        """The name of that split."""
        return "held-out" if len(self.held_out) else "fit"

    def images(self, indices: Indices | slice = slice(None)) -> NDArray[np.float32]:
        """Float32 pixels in [0, 1], ``(n, C, H, W)``."""
        return as_float(self.pixels[indices])

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row: channels, height and width of a picture."""
        return self.pixels.shape[1:]

    def batches(self, indices: Indices, size: int) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """Images and labels at `indices`, in order, at most `size` at a time."""
        for start in range(0, len(indices), size):
            chosen = indices[start : start + size]
            yield self.images(chosen), self.labels[chosen]


def read_clean_set(
    source: str | os.PathLike[str],
    model: Model,
    preprocess: Preprocess | Arrays,
    *,
    task: str = AUTO,
    seed: int = 0,
    classes_file: str | os.PathLike[str] | None = None,
    limit_per_class: int | None = None,
    labeller: Labeller | None = None,
    least_classes: int = 2,
) -> CleanSet:
    """Read clean images and split them.

    Args:
        source: Folder, ``.npz`` file, or ``module:function`` of a CalibrationDataReader.
        model: The classifier; its classes and input size are checked against the images.
        preprocess: How pictures are resized, or in which range arrays lie.
        task: Name of a task, or ``auto``: what labels and head say.
        seed: Of the split, and of the choice under `limit_per_class`.
        classes_file: One class name a line, in the model's class order, or a ``config.json`` with ``id2label``.
        limit_per_class: Take at most so many images a class.
        least_classes: Refuse images of fewer classes.
        labeller: Gives the labels of a task for pixels ``(N, ...)``; needed for sources without labels.

    Raises:
        InputError: Nothing usable was found, or it does not fit the model.
    """
    pictures = _read(str(source), model, preprocess, classes_file)
    _check_size(pictures.pixels, model, source)
    found = choose_task(task, model, pictures.labels, str(source))
    labels, pseudo = pictures.labels, False
    if labels is None:
        if labeller is None:
            remedy = "sort the images into one folder a class" if model.is_picture else "add an array 'labels'"
            what = "class folders" if model.is_picture else "labels"
            raise InputError(f"{source}: no {what} found; {remedy}, or --pseudo-labels")
        labels, pseudo = labeller(pictures.pixels, found), True
    found.check_labels(labels, model.num_classes, str(source))
    _check_classes(labels, source, least_classes, pseudo)
    names = pictures.class_names or tuple(str(index) for index in range(model.num_classes))
    everything = np.arange(len(labels))
    rng = np.random.default_rng(seed)
    if limit_per_class is not None and labels.ndim > 1:
        raise InputError("--limit-per-class: one class a row expected, found several labels; give fewer rows instead")
    chosen = everything if limit_per_class is None else _limit(labels, limit_per_class, rng)
    clean_set = CleanSet(
        pixels=pictures.pixels[chosen] if len(chosen) < len(labels) else pictures.pixels,
        labels=labels[chosen],
        class_names=names,
        fit=everything[:0],
        held_out=everything[:0],
        sha256=_chosen_sha256(pictures.sha256, chosen, len(labels)),
        pseudo_labels=pseudo,
        files=tuple(pictures.files[index] for index in chosen) if pictures.files else (),
        class_order=pictures.class_order,
        task=found,
    )
    fit, held_out = split(found.strata(clean_set.labels), rng)
    return replace(clean_set, fit=fit, held_out=held_out)


def choose_task(name: str, model: Model, labels: NDArray[np.int64] | None, source: str) -> Task:
    """The task of that name; for ``auto`` the one that labels and head agree on.

    Raises:
        InputError: There is none of that name, or labels say another task than the head.
    """
    if name != AUTO:
        return task_of(name)
    if labels is None or labels.ndim == 1:
        return SINGLE_LABEL
    if model.head != "sigmoid":
        raise InputError(
            f"{source}: one class a row expected of scores that are {model.head}, found labels of shape "
            f"{labels.shape}; where each score is a label of its own, give --task multi-label"
        )
    return MULTI_LABEL


def split(labels: NDArray[np.int64], rng: np.random.Generator) -> tuple[Indices, Indices]:
    """Split 80/20 within each class; a class with one image gives it to *fit*.

    Returns:
        Sorted int64 indices of *fit* and *held-out*.
    """
    fit: list[Indices] = []
    held_out: list[Indices] = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        count = max(1, round(HELD_OUT_SHARE * len(members))) if len(members) > 1 else 0
        held_out.append(members[:count])
        fit.append(members[count:])
    return np.sort(np.concatenate(fit)), np.sort(np.concatenate(held_out))


def read_file(path: Path, model: Model, preprocess: Preprocess | Arrays) -> Pictures:
    """Read an ``.npz`` of pictures, or of arrays; arrays may be an ``.npy``, too.

    Raises:
        InputError: The file is missing, damaged, pickled, or does not fit the model.
    """
    if isinstance(preprocess, Arrays):
        return read_array_file(path, model, preprocess)
    return read_npz(path, preprocess)


def _read(
    source: str, model: Model, preprocess: Preprocess | Arrays, classes_file: str | os.PathLike[str] | None
) -> Pictures:
    if isinstance(preprocess, Arrays):
        return _read_arrays(source, model, preprocess, read_class_names(classes_file, model.num_classes))
    path = Path(source)
    if is_annotated(path):
        return read_annotated(path, model.num_classes, preprocess, read_class_names(classes_file, model.num_classes))
    if (read := layout_of(path)) is not None:
        return read(model.num_classes, preprocess, read_class_names(classes_file, model.num_classes))
    if path.is_dir():
        return read_folder(path, model.num_classes, preprocess, read_class_names(classes_file, model.num_classes))
    if path.suffix == ".npz":
        return read_npz(path, preprocess)
    if (function := _function(source)) is not None:
        return read_reader(*function, model.input.name, preprocess)
    if not path.exists():
        raise InputError(f"--clean-dir: {source!r} does not exist")
    known = "a folder, .npz, .parquet, .tar, IDX, a .csv or .json of labels, or module:function"
    raise InputError(f"--clean-dir: {known} expected, found {source!r}")


def _read_arrays(source: str, model: Model, encoding: Arrays, names: tuple[str, ...] | None) -> Pictures:
    path = Path(source)
    if path.suffix in (".npz", ".npy"):
        return replace(read_array_file(path, model, encoding), class_names=names)
    if (function := _function(source)) is not None:
        return replace(read_array_reader(*function, model, encoding), class_names=names)
    raise InputError(
        f"--clean-dir: an .npz file with arrays {', '.join(model.input_names)} and labels, an .npy file or "
        f"module:function expected, since the model takes no pictures; found {source!r}"
    )


def _function(source: str) -> tuple[str, str] | None:
    """``module:function`` in two parts."""
    module, separator, function = source.partition(":")
    named = separator and module.replace(".", "").isidentifier() and function.isidentifier()
    return (module, function) if named else None


def _check_size(pixels: Pixels, model: Model, source: str | os.PathLike[str]) -> None:
    if model.image_size is None:
        return
    height, width = pixels.shape[2:]
    if (height, width) != model.image_size:
        expected = "x".join(map(str, model.image_size))
        raise InputError(f"{source}: {expected} pixels expected, found {height}x{width}; resize with --size {expected}")


def _check_classes(labels: NDArray[np.int64], source: str | os.PathLike[str], least: int, pseudo: bool) -> None:
    classes = np.unique(labels, axis=0)
    if len(classes) < least:
        found, remedy = f"images of at least {least} classes expected, found {len(classes)}", "give one folder a class"
        if pseudo:
            found += f": --pseudo-labels gives class {classes[0]} to all {len(labels)} images"
            remedy = "add images that the model answers otherwise"
        raise InputError(f"{source}: {found}; {remedy}; harden --method unit alone takes one class")


def _limit(labels: NDArray[np.int64], limit: int, rng: np.random.Generator) -> Indices:
    if limit < 1:
        raise InputError(f"--limit-per-class: at least 1 expected, found {limit}")
    kept: Sequence[Indices] = [rng.permutation(np.flatnonzero(labels == label))[:limit] for label in np.unique(labels)]
    return np.sort(np.concatenate(kept))


def _chosen_sha256(sha256: str, chosen: Indices, total: int) -> str:
    if len(chosen) == total:
        return sha256
    return hashlib.sha256(sha256.encode() + chosen.tobytes()).hexdigest()
