# SPDX-License-Identifier: Apache-2.0
"""What every stage of a calibration or a scan needs to know of the run it belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor

from patcher.calibrate.classifier import Classifier
from patcher.progress import Progress, no_progress

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Run:
    """One calibration or scan of one model.

    Attributes:
        classifier: The model; its weights are never changed.
        seed: Of everything random.
        batch_size: Images in memory at a time; results do not depend on it, up to rounding.
        progress: Told of each step.
    """

    classifier: Classifier
    seed: int
    batch_size: int
    progress: Progress = no_progress

    def watched(self, batches: Iterable[Batch], what: str, total: int) -> Iterator[Batch]:
        """Hand batches on, and tell how many of `total` images have been asked for."""
        done = 0
        for images, labels in batches:
            yield images, labels
            done += len(images)
            self.progress(what, done, total)
