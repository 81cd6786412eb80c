# SPDX-License-Identifier: Apache-2.0
"""One kernel in place of the several operators as which exporters write an activation.

A GELU of five operators reads and writes its tensor five times and keeps all of them for the backward pass. The
pattern says which operators belong together; that the kernel computes the same is tried on numbers, so that unusual
constants stay as they are. Tensors inside are there all the same for whoever fetches or rewrites them: see `plan`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx
import torch

from patcher.errors import UnsupportedGraphError
from patcher.graph.execution import Target, Value, bind, evaluate
from patcher.graph.flow import DataFlow
from patcher.graph.operators.registry import find_kernel
from patcher.graph.patterns import activation_source, gated_activation
from patcher.graph.steps import Step

_KERNELS: Mapping[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "GELU": (("Gelu", {}), ("Gelu", {"approximate": "tanh"})),
    "SiLU": (("Swish", {}),),
    "HardSwish": (("HardSwish", {}),),
    "Mish": (("Mish", {}),),
}
# Beyond these the activations are straight lines.
_PROBE = torch.linspace(-8, 8, 1001, dtype=torch.float64)
_TOLERANCE = 1e-6  # rounding of five operators in float32


@dataclass(frozen=True, eq=False)
class Fused:
    """An activation as one step.

    Attributes:
        step: Makes the activation's output from its input.
        inner: Tensors that it does without: what the operators make between the two, and their constants.
    """

    step: Step
    inner: frozenset[str]


def fused_activations(
    graph: onnx.GraphProto, inputs: Iterable[str], steps: Sequence[Step], constants: Mapping[str, torch.Tensor]
) -> tuple[Fused, ...]:
    """Find the activations of a main graph that one kernel computes.

    Args:
        graph: The graph, its functions expanded or not.
        inputs: Names of its inputs.
        steps: Its nodes, in order.
        constants: Its initializers on the CPU, in their computed type.
    """
    flow = DataFlow(graph, inputs)
    makers = {name: step for step in steps for name in step.outputs if name}
    found = (_fused(node, name, flow, makers, constants) for node, name in _named(flow) if node.output[0] in makers)
    return tuple(item for item in found if item)


def _named(flow: DataFlow) -> Iterator[tuple[onnx.NodeProto, str]]:
    for node in flow.nodes:
        name = gated_activation(node, flow)
        if name is not None and name in _KERNELS:
            yield node, name


def _fused(
    node: onnx.NodeProto,
    name: str,
    flow: DataFlow,
    makers: Mapping[str, Step],
    constants: Mapping[str, torch.Tensor],
) -> Fused | None:
    source, last = activation_source(node, flow), makers[node.output[0]]
    if source is None:
        return None
    dtype = next((value.dtype for value in constants.values() if value.is_floating_point()), torch.float32)
    probe = _PROBE.to(dtype)
    values: dict[str, Value] = {source: probe}
    wanted = _run(last, values, constants, makers, Target(probe.device, dtype))
    for operator, attributes in _KERNELS[name]:
        kernel = find_kernel("", operator)
        if kernel is None or wanted is None:
            continue
        given = kernel.function(probe, **attributes)
        if wanted.shape == given.shape and torch.allclose(given, wanted, rtol=_TOLERANCE, atol=_TOLERANCE):
            step = replace(last, operator=operator, inputs=(source,), captures=(), attributes=attributes, kernel=kernel)
            return Fused(step, frozenset(values) - {source, *last.outputs})
    return None


def _run(
    last: Step,
    values: dict[str, Value],
    constants: Mapping[str, torch.Tensor],
    makers: Mapping[str, Step],
    target: Target,
) -> torch.Tensor | None:
    """The activation as its operators compute it, every tensor into ``values``; ``None`` where they need more."""
    waiting = [last]
    while waiting:
        step = waiting[-1]
        values.update({name: constants[name] for name in step.reads if name in constants})
        missing = [name for name in step.reads if name not in values]
        if not missing:
            try:
                values.update(evaluate(bind(step, values, frozenset(), target), values))
            except UnsupportedGraphError:
                return None
            waiting.pop()
        elif missing[0] not in makers or makers[missing[0]] in waiting:
            return None
        else:
            waiting.append(makers[missing[0]])
    result = values[last.outputs[0]]
    return result if isinstance(result, torch.Tensor) else None
