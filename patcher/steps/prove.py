# SPDX-License-Identifier: Apache-2.0
"""Parity of what `harden` made, on clean images and on those that calibration asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from patcher.export import ParityReport, apply_guard, apply_patch, check_guard_parity, check_parity, neutral_patch
from patcher.measure.scores import as_feed
from patcher.steps.fit import Fitted

if TYPE_CHECKING:
    import onnx


def prove(fitted: Fitted, hardened: onnx.ModelProto, guard: onnx.ModelProto | None) -> ParityReport:
    """The surgery against the original, the patch against PyTorch.

    Raises:
        ParityError: ONNX Runtime does not compute what was calibrated.
    """
    model, providers = fitted.prepared.model, fitted.settings.providers
    feed = as_feed(model, fitted.prepared.preprocess, fitted.reference_images)
    neutral = neutral_patch(model, fitted.patch)
    if guard is not None:
        neutral_guard = apply_guard(model, neutral) or guard
        return check_guard_parity(model, hardened, guard, neutral_guard, feed, fitted.reference, providers=providers)
    return check_parity(
        model, hardened, apply_patch(model, neutral), [feed], expected=fitted.reference, providers=providers
    )
