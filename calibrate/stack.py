# SPDX-License-Identifier: Apache-2.0
"""Methods one on top of another: each is calibrated on the graph as those before it left it.

A single method is a stack of one. Corrections of all become one patch, in the order of the stack.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from patcher.calibrate import METHODS, Method
from patcher.errors import InputError
from patcher.settings import refuse_unknown

SEPARATOR = "+"
AUTO = "auto"
_CHOICE = ("unit", "nft", "bna")


@dataclass(frozen=True)
class Stack:
    """Methods in the order in which they are calibrated, the first on the model as it came."""

    methods: tuple[Method, ...]

    @property
    def name(self) -> str:
        """As given to ``--method``."""
        return SEPARATOR.join(self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the methods."""
        return tuple(method.name for method in self.methods)

    @property
    def known(self) -> frozenset[str]:
        """Names of the options that some method of the stack takes."""
        return frozenset(part.name for method in self.methods for part in fields(method.options()))

    def options(self, given: Mapping[str, Any]) -> tuple[Any, ...]:
        """The ``Options`` of each method; what several methods know goes to each of them.

        Raises:
            InputError: An option is unknown to all of them or out of its range, or asks for a second pass that a
                later method would have to correct.
        """
        refuse_unknown(f"method {self.name}", given, self.known)
        found = tuple(
            method.options()(**{part.name: given[part.name] for part in fields(method.options()) if part.name in given})
            for method in self.methods
        )
        for method, options in zip(self.methods[:-1], found, strict=False):
            if getattr(options, "flag", False):
                raise InputError(f"--flag: adds a second pass, so {method.name} must come last, found {self.name}")
        return found


def read_stack(name: str) -> Stack:
    """Methods by their names, joined by ``+``.

    Raises:
        InputError: One is unknown or there twice, or cannot stand where it does.
    """
    names = name.split(SEPARATOR)
    if unknown := [part for part in names if part not in METHODS]:
        raise InputError(
            f"--method: one of {', '.join((*METHODS, AUTO))}, or several joined by {SEPARATOR}, expected, "
            f"found {unknown[0]!r}{f' in {name!r}' if len(names) > 1 else ''}"
        )
    if twice := [part for part in names if names.count(part) > 1]:
        raise InputError(f"--method: every method once at most expected, found {twice[0]} twice in {name!r}")
    methods = tuple(METHODS[part] for part in names)
    if len(methods) > 1 and (alone := [method for method in methods if method.place == "alone"]):
        raise InputError(f"--method: {alone[0].name} by itself expected, found it in {name!r}")
    if early := [method for method in methods[:-1] if method.place == "last"]:
        raise InputError(f"--method: {early[0].name} adds a second pass and must come last, found {name!r}")
    return Stack(methods)


def stacks_of(name: str) -> tuple[Stack, ...]:
    """The stack that ``--method`` names; for ``auto`` the methods that it may choose and stack.

    Raises:
        InputError: As `read_stack`.
    """
    return tuple(map(read_stack, _CHOICE if name == AUTO else (name,)))


def joined(names: Sequence[str], tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The tables of several methods as one: what they disagree on stands once a method, as ``method.key``."""
    found: dict[str, Any] = {}
    for key in dict.fromkeys(key for table in tables for key in table):
        values = [(name, table[key]) for name, table in zip(names, tables, strict=True) if key in table]
        if all(value == values[0][1] for _, value in values):
            found[key] = values[0][1]
        else:
            found.update({f"{name}.{key}": value for name, value in values})
    return found


def within_budget(options: Any, lost: float, left: int) -> Any:
    """Options with their share of ``epsilon``: what is not lost yet, divided among the methods that are left.

    Args:
        options: A method's ``Options``; one without ``epsilon`` stays as it is.
        lost: Held-out accuracy that the methods before lost, -1 to 1.
        left: Methods that are left, this one included.
    """
    epsilon = getattr(options, "epsilon", None)
    return options if epsilon is None else replace(options, epsilon=min(epsilon, max(0.0, epsilon - lost)) / left)
