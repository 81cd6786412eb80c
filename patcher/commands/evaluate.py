# SPDX-License-Identifier: Apache-2.0
"""Measure a model on labelled and on triggered images: `patcher evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from patcher.data.preprocess import resolve_preprocess
from patcher.errors import InputError
from patcher.files import Source
from patcher.model.model import read_model
from patcher.report.evaluation import evaluation_report
from patcher.report.report import Report
from patcher.settings import split_options
from patcher.steps.before_after import score
from patcher.steps.flags import measure_detection
from patcher.steps.prepare import prepare
from patcher.triggers.triggered import Target, holds_triggers, read_triggered, triggered_by

if TYPE_CHECKING:
    import onnx


def evaluate(
    model: Source | bytes | onnx.ModelProto,
    *,
    data: Source,
    triggered: Source | None = None,
    target: Target | None = None,
    preprocess: Mapping[str, Any] | None = None,
    **options: Any,
) -> Report:
    """Measure ACC, ASR and SIA where triggered images are given, TPR and FPR where the model flags.

    Args:
        model: Path, bytes or ``ModelProto``.
        data: Labelled images, as a clean set.
        triggered: ``.npz`` of triggered images, or a scan's ``triggers.npz`` to put into the clean images.
        target: The attacker's class.
        preprocess: Keyword arguments of `resolve_preprocess`.
        options: Fields of `Settings`.

    Raises:
        InputError: A file, folder or option cannot be used.
    """
    settings, unknown = split_options(options)
    if unknown:
        raise InputError(f"evaluate: unknown options {', '.join(sorted(unknown))}")
    read = read_model(model)
    prepared = prepare(read, data, resolve_preprocess(read, **(preprocess or {})), settings)
    attack = None
    if triggered is not None and holds_triggers(triggered):
        attack = triggered_by(triggered, prepared.clean_set, target)
    elif triggered is not None:
        attack = read_triggered(triggered, prepared.preprocess, target)
    scored = score(prepared.session, prepared, attack, settings) if attack else None
    detection = measure_detection(prepared.session, prepared, attack, settings)
    return evaluation_report(prepared, str(data), scored, detection)
