# SPDX-License-Identifier: Apache-2.0
"""Parity: ONNX Runtime computes what was calibrated, or nothing is written.

Two comparisons, each with graph optimisation disabled and at its full level, since users deploy the
latter: the model with neutral corrections against the original (the surgery is faithful), and the
hardened model against the calibrated torch graph (the patch is what was measured). A difference is
measured against the largest absolute value of the reference, output by output; what is allowed is in
`patcher.export.parity.tolerance`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from patcher.errors import InputError, ParityError
from patcher.export.parity.tolerance import (
    LEAST_AGREEMENT,
    allowed_share,
    class_agreement,
    output_step,
    precision_of,
)
from patcher.model.file import loadable
from patcher.model.model import Model
from patcher.runtime import CPU_PROVIDER, OptimizationLevel, create_session, fill_batch, one_line, runtime_errors
from patcher.two_files import SCORE_OUTPUT, SCORE_TOLERANCE

Array = NDArray[Any]
Outputs = dict[str, Array]

LEVELS: tuple[OptimizationLevel, ...] = ("disabled", "all")


@dataclass(frozen=True)
class ParityCheck:
    """One comparison of one output.

    Attributes:
        comparison: ``neutral`` (against the original) or ``patched`` (against the torch graph).
        output: Name of the output.
        level: Graph optimisation level.
        max_difference: Largest absolute difference.
        scale: Largest absolute value of the reference.
        tolerance: Allowed share of the scale.
        drift: How far the original itself moves between the two levels, as a share of the scale.
        steps: The difference in quantisation steps of the output; ``None`` for a model without any.
        agreement: Share of images with the reference's class, near ties left out; quantised models only.
    """

    comparison: str
    output: str
    level: str
    max_difference: float
    scale: float
    tolerance: float
    drift: float = 0.0
    steps: float | None = None
    agreement: float | None = None

    @property
    def relative(self) -> float:
        """The difference as a share of the scale."""
        return self.max_difference / self.scale

    @property
    def passed(self) -> bool:
        """Whether the difference is allowed; NaN is not."""
        return self.relative <= self.tolerance and (self.agreement is None or self.agreement >= LEAST_AGREEMENT)


@dataclass(frozen=True)
class ParityReport:
    """What parity was proven on.

    Attributes:
        images: Number of images run.
        checks: Every comparison.
    """

    images: int
    checks: tuple[ParityCheck, ...]

    @property
    def largest(self) -> float:
        """The largest difference as a share of its output's scale."""
        return max((check.relative for check in self.checks), default=0.0)


def check_parity(
    original: Model,
    hardened: onnx.ModelProto,
    neutral: onnx.ModelProto,
    inputs: Sequence[Array],
    *,
    expected: Mapping[str, Array] | None = None,
    providers: Sequence[str] = (CPU_PROVIDER,),
    threads: int | None = None,
) -> ParityReport:
    """Prove that the hardened model is the original plus the patch, in ONNX Runtime.

    Args:
        original: The model before.
        hardened: The model with the patch.
        neutral: The model with the neutral patch (:func:`patcher.export.neutral_patch`).
        inputs: Batches as the model takes them: its layout, element type and preprocessing.
        expected: The calibrated torch graph's outputs over all batches, ``(N, ...)`` by output name;
            ``None`` skips that comparison.
        providers: Execution providers.
        threads: Threads within an operator.

    Returns:
        The differences, all within tolerance.

    Raises:
        ParityError: A difference is beyond its tolerance, or a model does not run.
        InputError: There are no inputs, or a provider is not available.
    """
    if not sum(len(batch) for batch in inputs):
        raise InputError("parity needs at least one image")
    check_interface(original.proto, hardened)
    checks: list[ParityCheck] = []
    shared: dict[str, Any] = {"providers": providers, "threads": threads}
    before = {level: run_model(original.proto, original, inputs, optimization=level, **shared) for level in LEVELS}
    drifts = {name: optimizer_drift(name, before) for name in before[LEVELS[0]]}
    for level in LEVELS:
        after = run_model(hardened, original, inputs, optimization=level, **shared)
        unchanged = run_model(neutral, original, inputs, optimization=level, **shared)
        checks += compare_outputs("neutral", level, unchanged, before[level], original, drifts=drifts)
        if expected is not None:
            checks += compare_outputs("patched", level, after, expected, original, drifts=drifts)
    for check in checks:
        if not check.passed:
            raise ParityError(_message(check))
    return ParityReport(sum(len(batch) for batch in inputs), tuple(checks))


def check_interface(original: onnx.ModelProto, hardened: onnx.ModelProto) -> None:
    """Check that a hardened model is a drop-in: same inputs, outputs first and in order, opset and IR version.

    Raises:
        ParityError: Something differs.
    """
    for part in ("input", "output"):
        wanted, found = list(getattr(original.graph, part)), list(getattr(hardened.graph, part))
        if found[: len(wanted)] != wanted or (part == "input" and len(found) != len(wanted)):
            names = [value.name for value in wanted], [value.name for value in found]
            raise ParityError(f"{part}s of the patched model differ: expected {names[0]}, found {names[1]}")
    if hardened.ir_version != original.ir_version or list(hardened.opset_import) != list(original.opset_import):
        raise ParityError("the patched model has another IR version or opset than the original")


def run_model(
    proto: onnx.ModelProto,
    model: Model,
    inputs: Sequence[Array],
    *,
    optimization: OptimizationLevel = "all",
    providers: Sequence[str] = (CPU_PROVIDER,),
    threads: int | None = None,
) -> Outputs:
    """Run a model, original or hardened, over batches of any size.

    A batch size that the model fixes is kept: batches are cut, the last is filled up and cut off again.

    Returns:
        Every output over all images, by name.

    Raises:
        ParityError: ONNX Runtime does not load or run the model.
    """
    try:
        with loadable(proto) as source:
            session = create_session(source, providers=providers, optimization=optimization, threads=threads)
        names = [output.name for output in session.get_outputs()]
        parts: list[list[Array]] = [[] for _ in names]
        for batch, count in _batches(inputs, model.batch):
            for part, value in zip(parts, session.run(names, model.feed(batch)), strict=True):
                part.append(value[:count] if value.ndim else value[None])
    except runtime_errors() as error:
        raise ParityError(f"ONNX Runtime does not run the model ({optimization}): {one_line(error)}") from error
    return {name: np.concatenate(part) for name, part in zip(names, parts, strict=True)}


def _batches(inputs: Sequence[Array], fixed: int | None) -> Iterator[tuple[Array, int]]:
    """Batches of the size the model takes, with the number of real images in each."""
    for batch in inputs:
        step = fixed or max(len(batch), 1)
        for start in range(0, len(batch), step):
            part = batch[start : start + step]
            yield np.ascontiguousarray(fill_batch(part, fixed)), len(part)


def compare_outputs(
    comparison: str,
    level: str,
    found: Outputs,
    reference: Mapping[str, Array],
    model: Model,
    *,
    drifts: Mapping[str, float] = MappingProxyType({}),
) -> Iterator[ParityCheck]:
    """Compare outputs by name with a reference; exact for what is no float.

    Args:
        comparison: ``neutral`` or ``patched``.
        level: Graph optimisation level.
        found: What ran.
        reference: What it must answer.
        model: The original.
        drifts: How far each of its outputs moves between the levels, as a share of the scale.

    Raises:
        ParityError: An output is missing or has another shape.
    """
    precision = precision_of(model)
    for name, wanted in reference.items():
        if name not in found:
            raise ParityError(f"output {name!r} is missing from the patched model")
        value = found[name]
        if value.shape != wanted.shape:
            raise ParityError(f"output {name!r} has shape {value.shape}, expected {wanted.shape} ({comparison})")
        if not value.size:
            continue
        scale, drift = _scale(wanted), drifts.get(name, 0.0)
        if not np.issubdtype(value.dtype, np.floating):
            yield ParityCheck(comparison, name, level, _distance(value, wanted), scale, 0.0)
            continue
        step = output_step(model, name, scale) if precision == "quantized" else 0.0
        tolerance = allowed_share(comparison, precision, drift=drift, step=step / scale)
        check = ParityCheck(comparison, name, level, _distance(value, wanted), scale, tolerance, drift)
        if precision == "quantized":
            agreement = class_agreement(value, wanted, 2 * step) if name == model.logits else None
            check = replace(check, steps=check.max_difference / step, agreement=agreement)
        if name == SCORE_OUTPUT:
            # A sum of logarithms of tails: absolute, not a share of the scale.
            check = replace(check, scale=1.0, tolerance=SCORE_TOLERANCE)
        yield check


def _distance(value: Array, wanted: Array) -> float:
    """Largest absolute difference."""
    left, right = value.astype(np.float64), wanted.astype(np.float64)
    # Equal infinities differ by nothing: minus infinity as the score of a masked class is legitimate.
    unequal = left != right
    return float(np.abs(np.subtract(left, right, where=unequal, out=np.zeros_like(left))).max())


def _scale(wanted: Array) -> float:
    """Largest finite absolute value; 1 where all are 0."""
    finite = np.abs(wanted[np.isfinite(wanted)].astype(np.float64))
    return float(finite.max()) if finite.size and finite.max() > 0 else 1.0


def _message(check: ParityCheck) -> str:
    against = "the original with neutral corrections" if check.comparison == "neutral" else "the calibrated torch graph"
    text = (
        f"output {check.output!r} differs from {against} by {check.max_difference:.3g} at a scale of {check.scale:.3g} "
        f"(allowed {check.tolerance:.0e} of it) with graph optimisation {check.level!r}"
    )
    if check.agreement is not None:
        text += (
            f"; {check.steps:.1f} quantisation steps, {check.agreement:.1%} of the images keep the reference's class"
        )
    if check.level == "all" and check.drift > check.tolerance:
        # onnxruntime 1.31.1 fuses a zero Pad into MaxPool, which pads with minus infinity.
        text += (
            f"; the original itself changes by {check.drift:.3g} of the scale between the two levels: ONNX Runtime's "
            "optimiser alters this model (known: a zero Pad before MaxPool); another onnxruntime may not"
        )
    return text


def optimizer_drift(output: str, before: Mapping[OptimizationLevel, Outputs]) -> float:
    """How far the original's output moves between the two levels, as a share of its scale."""
    plain, optimized = (before[level][output] for level in LEVELS)
    return _distance(optimized, plain) / _scale(plain) if plain.size else 0.0
