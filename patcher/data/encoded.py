# SPDX-License-Identifier: Apache-2.0
"""Encoded pictures with their labels, as tables and archives hold them, to `Pictures`.

Labels are class indices, or names. Names get their indices from `--classes`, from the source's own list of them, or,
where there is one for each class of the model, from their sorted order.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patcher.data.image_sources import Pictures, decode_all
from patcher.data.preprocess import Preprocess
from patcher.errors import InputError

Names = tuple[str, ...] | None
MOST_BYTES = 4 * 2**30  # of the encoded pictures of one source, which are in memory at once


@dataclass(frozen=True)
class Encoded:
    """One picture.

    Attributes:
        name: Unique within its source.
        content: A picture file's bytes.
        label: Class index or name; ``None`` where the source has none.
    """

    name: str
    content: bytes
    label: int | str | None


@dataclass(frozen=True)
class Labels:
    """Labels as the model counts them.

    Attributes:
        indices: int64 ``(N,)``; ``None`` where there are none.
        class_names: In class order, or ``None``.
        class_order: Where the order comes from, in words.
    """

    indices: NDArray[np.int64] | None
    class_names: Names
    class_order: str


def to_pictures(
    items: Sequence[Encoded], source: Path, preprocess: Preprocess, num_classes: int, chosen: Names, own: Names = None
) -> Pictures:
    """Decode pictures, and count their labels as the model does.

    Args:
        items: In the order of the source.
        source: For messages.
        preprocess: How pictures are resized.
        num_classes: Of the model.
        chosen: Names of ``--classes``.
        own: The source's own list of names, by class index.

    Raises:
        InputError: There are none, one cannot be decoded, sizes differ, or labels do not fit the model.
    """
    if not items:
        raise InputError(f"{source}: pictures expected, found none")
    labels = to_labels([item.label for item in items], source, num_classes, chosen, own)

    def decode(index: int) -> NDArray[np.uint8]:
        return preprocess.decode(io.BytesIO(items[index].content), f"{source}: {items[index].name}")

    names = tuple(item.name for item in items)
    pixels = decode_all(names, decode, f"{source}: ")
    digest = hashlib.sha256()
    for index, item in enumerate(items):
        label = -1 if labels.indices is None else int(labels.indices[index])
        digest.update(f"{item.name}\0{label}\0".encode() + hashlib.sha256(item.content).digest())
    return Pictures(pixels, labels.indices, labels.class_names, digest.hexdigest(), names, labels.class_order)


def to_labels(
    found: Sequence[int | str | None], source: Path, num_classes: int, chosen: Names, own: Names = None
) -> Labels:
    """Class indices of labels.

    Raises:
        InputError: Some pictures have a label and others none, or names have no sure order.
    """
    if all(label is None for label in found):
        return Labels(None, chosen, "as in --classes" if chosen else "")
    if any(label is None for label in found):
        raise InputError(f"{source}: a label for every picture expected, found some without")
    texts = [str(label) for label in found]
    if all(text.isascii() and text.isdecimal() for text in texts):
        indices = np.array([int(text) for text in texts], np.int64)
        if own is None or chosen is None:
            names = chosen or (own if own is not None and len(own) == num_classes else None)
            return Labels(indices, names, "labels are class indices")
        if indices.max() >= len(own):
            raise InputError(f"{source}: labels 0 to {len(own) - 1} expected as it names them, found {indices.max()}")
        texts = [own[index] for index in indices]
    names = chosen or own or tuple(sorted(set(texts)))
    if unknown := sorted(set(texts) - set(names)):
        raise InputError(f"{source}: a class named in --classes expected, found {unknown[0]!r}")
    if len(names) != num_classes:
        raise InputError(
            f"{source}: {num_classes} classes expected from the model's outputs, found {len(names)} names; name the "
            "class order with --classes"
        )
    order = "as in --classes" if chosen else "as the source names them" if own else "class names in sorted order"
    places = {name: index for index, name in enumerate(names)}
    return Labels(np.array([places[text] for text in texts], np.int64), names, order)
