# SPDX-License-Identifier: Apache-2.0
"""What a patch does in PyTorch: the answers that the hardened model must give, and how far bounds reach."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patcher.calibrate import Calibration
from patcher.data.clean_set import CleanSet
from patcher.patch import Flag, Patch, UpperBound

if TYPE_CHECKING:
    from patcher.calibrate.classifier import Classifier
    from patcher.calibrate.run import Run

_HISTOGRAM_IMAGES = 256


def clean_histograms(run: Run, calibration: Calibration, clean_set: CleanSet) -> dict[str, NDArray[np.float64]]:
    """Clean activations relative to the bounds of a stage, by tensor."""
    from patcher.calibrate.statistics import bound_histograms

    bounds = [item for item in calibration.corrections if isinstance(item, UpperBound)]
    batches = run.classifier.batches(clean_set, clean_set.fit[:_HISTOGRAM_IMAGES], run.batch_size)
    return bound_histograms(run.classifier, bounds, batches)


def reference_answers(
    classifier: Classifier, patch: Patch, images: NDArray[np.float32]
) -> tuple[NDArray[np.float32], dict[str, NDArray[Any]]]:
    """What the patched model answers, in PyTorch, by output name; and to which images.

    Images whose flag hangs on rounding are left out: parity asks for the same flags in another runtime.
    """
    from patcher.calibrate.patched import corrected, hangs_on_rounding, run_patch

    flag = next((item for item in patch.corrections if isinstance(item, Flag)), None)
    if flag is not None:
        pixels = classifier.tensor(images)
        decided = ~hangs_on_rounding(corrected(classifier, patch.corrections), flag, pixels)
        images = images[decided.cpu().numpy()]
    values = run_patch(classifier, patch.corrections, classifier.tensor(images))
    return images, {key: value.cpu().numpy() for key, value in values.items()}
