# SPDX-License-Identifier: Apache-2.0
"""How far two runs of one model may lie apart, as a share of an output's scale.

    allowed = max(base, min(4 * drift, ceiling))

*drift* is what the original itself moves between ONNX Runtime's optimisation levels on the same images: a
deep network in single precision drifts by more than any fixed small number, and its users live with that.

A graph with ``QuantizeLinear`` rounds activations to steps. A value on the edge between two steps falls to
the other side for a difference of 1e-7, and what follows moves by whole steps. There *base* is four steps of
the output, and besides the classes must agree where the reference is no near tie.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from patcher.graph.flow import DataFlow
from patcher.model.model import Model

Comparison = Literal["neutral", "patched"]
Precision = Literal["single", "half", "quantized"]

# Against the original the graphs differ by identities only; against torch every kernel is another
# implementation, and half precision is computed in float32 there.
TOLERANCES: dict[tuple[str, Precision], float] = {
    ("neutral", "single"): 1e-5,
    ("patched", "single"): 1e-4,
    ("neutral", "half"): 1e-2,
    ("patched", "half"): 2e-2,
}
CEILINGS: dict[Precision, float] = {"single": 2e-4, "half": 5e-2, "quantized": 0.15}
DRIFT_FACTOR = 4.0
STEPS = 4
LEAST_AGREEMENT = 0.95
_HALF = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
# Of an output that is computed in floats behind the last rounding: the step of eight bits over its range.
_STEPS_OF_EIGHT_BITS = 127


def precision_of(model: Model) -> Precision:
    """What limits how exactly a model can be compared."""
    if model.quantized:
        return "quantized"
    return "half" if any(elem_type in _HALF for elem_type in model.elem_types.values()) else "single"


def output_step(model: Model, output: str, scale: float) -> float:
    """Quantisation step of an output of a quantised model, in its own unit."""
    flow = DataFlow(model.proto.graph, model.input_names)
    node = flow.producer(output)
    if node is not None and node.op_type == "DequantizeLinear":
        value = flow.value(node.input[1])
        if value is not None and value.size:
            return float(value.max())
    return scale / _STEPS_OF_EIGHT_BITS


def allowed_share(comparison: str, precision: Precision, *, drift: float, step: float) -> float:
    """The allowed difference as a share of the output's scale.

    Args:
        comparison: ``neutral`` or ``patched``.
        precision: See `precision_of`.
        drift: Of the original between optimisation levels, as a share of the scale.
        step: Quantisation step as a share of the scale; only used for quantised models.
    """
    ceiling = CEILINGS[precision]
    base = min(STEPS * step, ceiling) if precision == "quantized" else TOLERANCES[comparison, precision]
    return max(base, min(DRIFT_FACTOR * drift, ceiling))


def class_agreement(value: NDArray[Any], wanted: NDArray[Any], margin: float) -> float | None:
    """Share of rows with the same class, of those whose two best scores lie further apart than `margin`.

    Args:
        value: Class scores ``(N, K)``.
        wanted: The reference, same shape.
        margin: In the unit of the scores.

    Returns:
        ``None`` for what are no class scores, and where every row is a near tie.
    """
    if wanted.ndim != 2 or wanted.shape[1] < 2:
        return None
    best = np.sort(wanted.astype(np.float64), axis=1)[:, -2:]
    clear = best[:, 1] - best[:, 0] > margin
    if not clear.any():
        return None
    return float((value.argmax(axis=1) == wanted.argmax(axis=1))[clear].mean())
