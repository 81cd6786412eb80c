# SPDX-License-Identifier: Apache-2.0
"""What a patch changes and where it came from: `patcher show`. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from patcher.files import Source
from patcher.patch import Correction, Part, Patch, flat_corrections, patch_sha256, read_patch
from patcher.report.harden.masks import LayerMasks, layer_masks, masks_section


@dataclass(frozen=True)
class CorrectionSummary:
    """One correction: its kind, its tensor, and the spread of its values as text."""

    correction: str
    tensor: str
    shape: str
    lowest: str
    median: str
    highest: str


@dataclass(frozen=True)
class ShowResult:
    """What `show` read.

    Attributes:
        patch: The patch.
        sha256: Of its file.
        corrections: One entry a correction, in graph order.
        masks: Per layer, for a patch with masks.
    """

    patch: Patch
    sha256: str
    corrections: tuple[CorrectionSummary, ...]
    masks: tuple[LayerMasks, ...]

    def about(self) -> Mapping[str, Any]:
        """Where the patch came from, as plain JSON values."""
        patch = self.patch
        return {
            "method": patch.method,
            "source_sha256": patch.source_sha256,
            "clean_data_sha256": patch.clean_data_sha256,
            "patch_sha256": self.sha256,
            "options": dict(patch.options),
            "preprocess": dict(patch.preprocess),
        }

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        masks = {"masks": masks_section(self.patch)} if self.masks else {}
        return {**self.about(), "corrections": [asdict(item) for item in self.corrections], **masks}


def show(patch: Source) -> ShowResult:
    """Read a patch file.

    Raises:
        InputError: The file is missing or no patch.
    """
    found = read_patch(patch)
    corrections = tuple(_summary(item) for item in flat_corrections(found.corrections))
    return ShowResult(found, patch_sha256(found), corrections, layer_masks(found))


def _summary(item: Correction | Part) -> CorrectionSummary:
    values = next(value for value in vars(item).values() if isinstance(value, np.ndarray))
    name = next(value for value in vars(item).values() if isinstance(value, str))
    spread = (values.min(), np.median(values), values.max()) if values.size else ()
    lowest, median, highest = (f"{value:.4g}" for value in spread) if spread else ("", "", "")
    shape = "x".join(map(str, values.shape)) or "scalar"
    return CorrectionSummary(type(item).__name__, name, shape, lowest, median, highest)
