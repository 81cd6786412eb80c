# SPDX-License-Identifier: Apache-2.0
"""The table of operators: each ONNX operator and the PyTorch function that computes it.

A kernel is a plain function; its signature says what it supports:

- positional parameters are the node's inputs in ONNX order (``None`` for one left out), or
  ``*inputs`` for a variadic operator;
- keyword-only parameters are the ONNX attributes it knows, with the standard's default values. An
  attribute that is not among them is refused, never ignored;
- a few keyword names are no attributes but facts about the node that the interpreter supplies:
  those in `CONTEXT`.

Inputs named in ``host`` arrive as plain Python numbers or (nested) lists: shapes, axes and other
values that decide which computation is done. Inputs named in ``host_if_constant`` arrive so when
they do not depend on the model's input, and as tensors otherwise.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from patcher.errors import UnsupportedGraphError

# opset: the operator set version of the node's domain; outputs: which outputs the node names
# (tuple of bool); device: torch device of new tensors; compute_type: torch type of float tensors;
# run: runs a subgraph on a list of values; carried: whether integer results may be carried as floats.
CONTEXT = frozenset({"opset", "outputs", "device", "compute_type", "run", "carried"})

Function = TypeVar("Function", bound=Callable[..., Any])
Check = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Kernel:
    """A PyTorch function and what it accepts.

    Attributes:
        function: Computes the operator.
        inputs: Names of the positional parameters.
        variadic: Whether it takes any number of inputs.
        required: How many positional parameters have no default.
        attributes: Names of the ONNX attributes it knows.
        needed: Those among them without a default value.
        context: Which of `CONTEXT` it wants.
        host: Positions of inputs that arrive as Python values.
        host_if_constant: Positions of inputs that arrive as Python values where they are constant.
        data_dependent: Whether the shape of an output depends on the values of the inputs.
        since: First revision (opset) of the operator that the function computes.
        check: Refuses attributes with values that the function does not know.
    """

    function: Callable[..., Any]
    inputs: tuple[str, ...]
    variadic: bool
    required: int
    attributes: frozenset[str]
    needed: frozenset[str]
    context: frozenset[str]
    host: frozenset[int]
    host_if_constant: frozenset[int]
    data_dependent: bool
    since: int
    check: Check | None


_KERNELS: dict[tuple[str, str], Kernel] = {}


def operator(
    *names: str,
    domain: str = "",
    host: tuple[str, ...] = (),
    host_if_constant: tuple[str, ...] = (),
    data_dependent: bool = False,
    since: int = 1,
    check: Check | None = None,
) -> Callable[[Function], Function]:
    """Register a kernel under one or more operator names.

    Args:
        names: ONNX operator names that the function computes.
        domain: Operator domain.
        host: Parameters that arrive as Python values.
        host_if_constant: Parameters that arrive as Python values where they are constant.
        data_dependent: Whether an output's shape depends on input values.
        since: First revision that is supported; older ones are refused.
        check: Raises `UnsupportedGraphError` for values of attributes that the function does not know.

    Returns:
        A decorator that leaves the function as it is.
    """

    def register(function: Function) -> Function:
        parameters = inspect.signature(function).parameters.values()
        positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        inputs = tuple(p.name for p in positional)
        keywords = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
        kernel = Kernel(
            function=function,
            inputs=inputs,
            variadic=any(p.kind is p.VAR_POSITIONAL for p in parameters),
            required=sum(p.default is p.empty for p in positional),
            attributes=frozenset(keywords - CONTEXT),
            needed=frozenset(p.name for p in parameters if p.name in keywords - CONTEXT and p.default is p.empty),
            context=frozenset(keywords & CONTEXT),
            host=frozenset(inputs.index(name) for name in host),
            host_if_constant=frozenset(inputs.index(name) for name in host_if_constant),
            data_dependent=data_dependent,
            since=since,
            check=check,
        )
        for name in names:
            _KERNELS[domain, name] = kernel
        return function

    return register


def find_kernel(domain: str, name: str) -> Kernel | None:
    """The kernel of an operator, or ``None``."""
    return _KERNELS.get((domain, name))


def operator_names() -> tuple[tuple[str, str], ...]:
    """All registered operators as sorted ``(domain, name)``."""
    return tuple(sorted(_KERNELS))


def describe(name: str, operator_name: str, domain: str, opset: int) -> str:
    """Name a node for an error message: its name, operator and opset."""
    full = f"{domain}.{operator_name}" if domain else operator_name
    return f"node {name!r} (operator {full}, opset {opset})"


def check_signature(
    kernel: Kernel, where: str, inputs: tuple[str, ...], attributes: dict[str, Any], revision: int
) -> None:
    """Refuse what the kernel does not know.

    Raises:
        UnsupportedGraphError: An unknown or missing attribute, a wrong number of inputs, or too old a revision.
    """
    unknown = sorted(set(attributes) - kernel.attributes)
    if unknown:
        raise UnsupportedGraphError(f"{where}: attribute {', '.join(unknown)} is not supported by the interpreter")
    absent = sorted(kernel.needed - set(attributes))
    if absent:
        raise UnsupportedGraphError(f"{where}: attribute {absent[0]} expected, found none")
    present = sum(bool(name) for name in inputs[: kernel.required]) if not kernel.variadic else kernel.required
    if present < kernel.required or (not kernel.variadic and len(inputs) > len(kernel.inputs)):
        raise UnsupportedGraphError(
            f"{where}: expected {kernel.required} to {len(kernel.inputs)} inputs, found {len(inputs)}"
        )
    if revision < kernel.since:
        raise UnsupportedGraphError(f"{where}: revision {kernel.since} or later expected, found {revision}")
    if kernel.check is not None:
        try:
            kernel.check(attributes)
        except UnsupportedGraphError as error:
            raise UnsupportedGraphError(f"{where}: {error}") from error
