# SPDX-License-Identifier: Apache-2.0
"""IDX files, in which MNIST and its kin are kept, torchvision's copies among them.

``X-images-idx3-ubyte``, and ``X-labels-idx1-ubyte`` beside it, each perhaps with ``.gz`` behind it. A file is four
bytes (two zeros, the type, the number of axes), the length of each axis as a big-endian uint32, and the values. The
type of pictures and labels is 8: bytes (Y. LeCun, C. Cortes, "The MNIST database").
"""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patcher.data.encoded import MOST_BYTES, Names, to_labels
from patcher.data.image_sources import Pictures, as_pixels
from patcher.data.preprocess import Preprocess
from patcher.errors import InputError

IMAGES, LABELS = "-images-idx3-ubyte", "-labels-idx1-ubyte"
_BYTES = 8


def read_idx(images: Path, num_classes: int, preprocess: Preprocess, class_names: Names) -> Pictures:
    """Read the pictures of an IDX file, and the labels of the one beside it.

    Raises:
        InputError: One is missing, damaged, or not as long as the other.
    """
    beside = images.with_name(images.name.replace(IMAGES, LABELS))
    others = [beside, beside.with_name(beside.name + ".gz"), beside.with_name(beside.name.removesuffix(".gz"))]
    labels_file = next((file for file in others if file.is_file()), None)
    if labels_file is None:
        raise InputError(f"{images}: labels expected in {beside.name} beside it, found no such file")
    pixels, labels = _read(images, 3), _read(labels_file, 1)
    if len(pixels) != len(labels):
        raise InputError(f"{labels_file}: {len(pixels)} labels expected as there are pictures, found {len(labels)}")
    digest = hashlib.sha256(images.read_bytes())
    digest.update(labels_file.read_bytes())
    found = to_labels(labels.tolist(), images, num_classes, class_names)
    return Pictures(
        as_pixels(pixels, preprocess, images),
        found.indices,
        found.class_names,
        digest.hexdigest(),
        class_order=found.class_order,
    )


def _read(path: Path, axes: int) -> NDArray[np.uint8]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(4 + 4 * axes)
            sides = [int.from_bytes(head[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(axes)]
            size = math.prod(sides)
            if head[:4] != bytes((0, 0, _BYTES, axes)) or len(head) < 4 + 4 * axes or size > MOST_BYTES:
                raise InputError(f"{path}: an IDX file of bytes with {axes} axes expected, found another header")
            content = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read as an IDX file ({error})") from error
    if len(content) != size:
        found = "more" if len(content) > size else f"{len(content)}"
        raise InputError(f"{path}: {size} bytes of values expected as its header says, found {found}")
    return np.frombuffer(content, np.uint8).reshape(sides)
