# SPDX-License-Identifier: Apache-2.0
"""Which tensors have one row an image.

Some transformers compute with tokens first, or with tokens and images in one axis. Bounds and masks by channel do not
mind; whatever is said of single images, or changed in single images, needs rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from patcher.calibrate.classifier import Classifier
from patcher.data.clean_set import CleanSet


@torch.no_grad()
def row_tensors(classifier: Classifier, clean_set: CleanSet, names: Sequence[str]) -> frozenset[str]:
    """Those of the tensors whose first axis counts the images.

    Args:
        classifier: The model; it is run on two and on three images.
        clean_set: At least three images.
        names: Tensors that depend on the images.
    """
    kept = set(names)
    for count in (2, 3):
        found = classifier.run(classifier.tensor(clean_set.images(slice(0, count))), fetch=names)
        kept -= {name for name in names if found[name].shape[0] != count}
    batch, shapes = classifier.model.batch, classifier.model.shapes
    return frozenset(name for name in kept if batch is None or (shapes.get(name) or (batch,))[0] == batch)
