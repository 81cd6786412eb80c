# SPDX-License-Identifier: Apache-2.0
"""Parity of the two-files form: the plain model and its guard, joined as a service joins them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from patcher.errors import ParityError
from patcher.export.parity.parity import (
    LEVELS,
    Array,
    Outputs,
    ParityCheck,
    ParityReport,
    check_interface,
    compare_outputs,
    optimizer_drift,
)
from patcher.model.file import loadable
from patcher.model.model import Model
from patcher.runtime import CPU_PROVIDER, OptimizationLevel, create_session, fill_batch
from patcher.two_files import FLAG_OUTPUT, TwoFileSession


def check_guard_parity(
    original: Model,
    plain: onnx.ModelProto,
    guard: onnx.ModelProto,
    neutral_guard: onnx.ModelProto,
    inputs: Array,
    expected: Mapping[str, Array],
    *,
    providers: Sequence[str] = (CPU_PROVIDER,),
) -> ParityReport:
    """Prove that a plain model and its guard together compute what was calibrated.

    Args:
        original: The model before.
        plain: The first file.
        guard: The second file.
        neutral_guard: The second file with neutral corrections: nothing may change, nothing be flagged.
        inputs: One batch as the model takes it.
        expected: Outputs of the calibrated torch graph by name, ``trigger_detected`` among them.
        providers: Execution providers.

    Raises:
        ParityError: A difference is beyond its tolerance.
    """
    check_interface(original.proto, plain)
    checks: list[ParityCheck] = []
    originals = {level: _run(original, plain, None, inputs, level, providers) for level in LEVELS}
    drifts = {name: optimizer_drift(name, originals) for name in originals[LEVELS[0]]}
    for level in LEVELS:
        before = originals[level]
        neutral = _run(original, plain, neutral_guard, inputs, level, providers)
        after = _run(original, plain, guard, inputs, level, providers)
        unflagged = {name: before[name] for name in neutral if name in before}
        unflagged[FLAG_OUTPUT] = np.zeros(len(inputs), bool)
        checks += compare_outputs("neutral", level, neutral, unflagged, original, drifts=drifts)
        checks += compare_outputs("patched", level, after, expected, original, drifts=drifts)
    for check in checks:
        if not check.passed:
            raise ParityError(
                f"output {check.output!r} of the plain and the guard model differs by {check.max_difference:.3g} at a "
                f"scale of {check.scale:.3g} ({check.comparison}) with graph optimisation {check.level!r}"
            )
    return ParityReport(len(inputs), tuple(checks))


def _run(
    original: Model,
    plain: onnx.ModelProto,
    guard: onnx.ModelProto | None,
    inputs: Array,
    level: OptimizationLevel,
    providers: Sequence[str],
) -> Outputs:
    with loadable(plain) as source:
        session = create_session(source, providers=providers, optimization=level)
    names = [item.name for item in session.get_outputs()]
    if guard is not None:
        with loadable(guard) as source:
            session = TwoFileSession(session, create_session(source, providers=providers, optimization=level))
        names = session.output_names
    size = original.batch or max(len(inputs), 1)
    parts = []
    for start in range(0, len(inputs), size):
        piece = inputs[start : start + size]
        feed = original.feed(fill_batch(piece, original.batch))
        parts.append([value[: len(piece)] for value in session.run(names, feed)])
    return {name: np.concatenate(part) for name, part in zip(names, zip(*parts, strict=True), strict=True)}
