# SPDX-License-Identifier: Apache-2.0
"""One node at a time: choose the lane, bind the arguments, call the kernel.

A value is a NumPy array on the host lane (it depends on shapes only) or a torch tensor. Binding
turns a step into a `Call` whose fixed arguments are already in place, so that running the same
shapes again costs one function call a node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from patcher.errors import PatcherError, UnsupportedGraphError
from patcher.graph.host_values import HostArray, to_host, to_python, to_tensor
from patcher.graph.steps import Block, Step

Value = torch.Tensor | HostArray

# What a kernel may raise on inputs that it cannot compute; a shortage of memory is passed on.
_KERNEL_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, KeyError, OverflowError)


@dataclass(frozen=True)
class Target:
    """Where and in which type the computation runs."""

    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True, eq=False)
class Call:
    """A step with its fixed arguments in place.

    Attributes:
        step: The node.
        function: The kernel's function.
        arguments: Positional arguments; those in ``slots`` are filled in at each run.
        slots: ``(position, tensor name)`` of the arguments that change.
        keywords: Attributes and context.
        on_host: Whether the results are host values.
        replayable: Whether the fixed arguments stay right as long as the input shapes do.
    """

    step: Step
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    slots: tuple[tuple[int, str], ...]
    keywords: Mapping[str, Any]
    on_host: bool
    replayable: bool

    def run(self, environment: Mapping[str, Value]) -> tuple[Any, ...]:
        """Call the kernel on the current values; one result per output of the node."""
        arguments = list(self.arguments)
        for position, name in self.slots:
            arguments[position] = environment[name]
        result = self.function(*arguments, **self.keywords)
        return result if isinstance(result, tuple) else (result,)


def bind(step: Step, environment: Mapping[str, Value], fixed: frozenset[str] | set[str], target: Target) -> Call:
    """Bind a step's arguments.

    Args:
        step: The node.
        environment: Current values of the tensors it reads.
        fixed: Names of tensors that never change.
        target: Where tensors live.

    Returns:
        The call; its slots are the tensors that change from run to run.
    """
    moving = [name for name in step.reads if name not in fixed]
    on_host = bool(moving) and not any(isinstance(environment[name], torch.Tensor) for name in moving)
    where = Target(torch.device("cpu"), target.dtype) if on_host else target
    kernel = step.kernel
    has_blocks = any(isinstance(value, Block) for value in step.attributes.values())
    replayable = not moving or on_host or not (kernel.data_dependent or has_blocks)
    arguments: list[Any] = []
    slots: list[tuple[int, str]] = []
    for position, name in enumerate(step.inputs):
        value = environment[name] if name else None
        steady = name in fixed or not isinstance(value, torch.Tensor)
        if value is None:
            arguments.append(None)
        elif position in kernel.host or (position in kernel.host_if_constant and steady):
            arguments.append(to_python(value))
            replayable = replayable and steady
        elif isinstance(value, torch.Tensor) and not steady:
            slots.append((position, name))
            arguments.append(None)
        else:
            arguments.append(_place(value, where))
    keywords = dict(step.attributes) | _context(step, environment, where)
    return Call(step, kernel.function, tuple(arguments), tuple(slots), keywords, on_host, replayable)


def evaluate(call: Call, environment: Mapping[str, Value]) -> dict[str, Value]:
    """Run a call with every failure turned into a refusal that names the node.

    Raises:
        UnsupportedGraphError: The kernel cannot compute these inputs.
    """
    step = call.step
    try:
        results = call.run(environment)
    except torch.OutOfMemoryError:
        raise
    except PatcherError as error:
        raise UnsupportedGraphError(_located(step.where, str(error))) from error
    except NotImplementedError as error:
        reason = str(error).splitlines()[0]
        raise UnsupportedGraphError(f"{step.where}: PyTorch does not compute it for this type ({reason})") from error
    except _KERNEL_ERRORS as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UnsupportedGraphError(f"{step.where}: cannot be computed ({reason})") from error
    if len(results) < len(step.outputs):
        raise UnsupportedGraphError(f"{step.where}: output {step.outputs[len(results)]!r} is not supported")
    pairs = zip(step.outputs, results, strict=False)
    return {
        name: to_host(value) if call.on_host and isinstance(value, torch.Tensor) else value
        for name, value in pairs
        if name
    }


def run_block(block: Block, arguments: Sequence[Value], outer: Mapping[str, Value], target: Target) -> list[Value]:
    """Run a subgraph on given inputs and captured values; one value per output of the subgraph."""
    environment: dict[str, Value] = {name: outer[name] for name in block.captures}
    environment.update({name: value.to(target.device) for name, value in block.initializers.items()})
    environment.update(zip(block.inputs, arguments, strict=True))
    for step in block.steps:
        environment.update(evaluate(bind(step, environment, frozenset(), target), environment))
    return [environment[name] for name in block.outputs]


def _located(where: str, message: str) -> str:
    """Prefix a message with its node unless an inner node is named already."""
    return message if message.startswith("node ") else f"{where}: {message}"


def _place(value: Value, target: Target) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value.to(target.device)
    return to_tensor(value, target.device, target.dtype)


def _context(step: Step, environment: Mapping[str, Value], target: Target) -> dict[str, Any]:
    """The keyword arguments that are no attributes, as far as the kernel wants them."""
    outer = {name: environment[name] for name in step.captures}
    facts: dict[str, Any] = {
        "opset": step.opset,
        "outputs": tuple(bool(name) for name in step.outputs),
        "device": target.device,
        "compute_type": target.dtype,
        "carried": step.carried,
        "run": lambda block, arguments: run_block(block, arguments, outer, target),
    }
    return {name: facts[name] for name in step.kernel.context}
