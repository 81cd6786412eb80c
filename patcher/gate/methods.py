# SPDX-License-Identifier: Apache-2.0
"""What each method may change: one table for every check.

    unit    Min, Clip, Cast between floats                     behind sites
            with --means a pool, Max, Div, Mul                 behind sites (proven by reconstruction alone)
            with --flag a second view that ends in the outputs behind the original's scores
    nft     Mul, Cast; with a centred mask Add too             on weights, behind sites
            BatchNormalization statistics, weights times masks
    bna     Mul, Add, Cast; BatchNormalization statistics      behind sites
            a second pass that ends in the outputs             behind the original's scores
    none    nothing; other values of weights

The metadata names the method: naming another changes what is allowed, never what is measured. A stack of
methods (``unit+bna``) may change what each of them may. A method from outside says with `declare` what it does;
one that says nothing may make any correction that can be read in its file, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

from patcher.calibrate import METHODS
from patcher.errors import InputError
from patcher.patch import CORRECTION_KINDS, Patch

_STACK = "+"


@dataclass(frozen=True)
class Changes:
    """What a method may change.

    Attributes:
        corrections: Kinds of `patcher.patch.Correction` that its patch may hold, by name.
        operators: Operators it may put behind a site.
        on_weights: Operators it may put on a weight.
        weights: Whether it may change the values of weights.
        statistics: Whether it may change BatchNormalization statistics.
        second_pass: Whether it may add outputs that a second pass computes.
        always_adds: Whether a result without additions cannot come from it.
    """

    corrections: frozenset[str] = frozenset()
    operators: frozenset[str] = frozenset()
    on_weights: frozenset[str] = frozenset()
    weights: bool = False
    statistics: bool = False
    second_pass: bool = False
    always_adds: bool = False

    def __or__(self, other: Changes) -> Changes:
        """What two methods, one on top of the other, may change."""
        return Changes(
            self.corrections | other.corrections,
            self.operators | other.operators,
            self.on_weights | other.on_weights,
            self.weights or other.weights,
            self.statistics or other.statistics,
            self.second_pass or other.second_pass,
            self.always_adds or other.always_adds,
        )


_AFFINE = frozenset({"Mul", "Add", "Cast"})
_CHANGES: dict[str, Changes] = {
    "unit": Changes(
        frozenset({"UpperBound", "MeanBound", "Flag"}),
        frozenset({"Min", "Clip", "Cast"}),
        second_pass=True,
        always_adds=True,
    ),
    "nft": Changes(
        frozenset({"WeightMask", "Bias", "Affine", "Normalization"}), _AFFINE, on_weights=_AFFINE, statistics=True
    ),
    "bna": Changes(
        frozenset({"Affine", "Bias", "Branch", "Normalization"}), _AFFINE, statistics=True, second_pass=True
    ),
    "none": Changes(frozenset({"Weights"}), weights=True),
}


def known_methods() -> Mapping[str, Changes]:
    """What each registered or declared method may change."""
    return dict.fromkeys(METHODS, Changes(CORRECTION_KINDS)) | _CHANGES


def declare(method: str, changes: Changes) -> None:
    """Say what a method from outside changes; its files are refused before.

    Raises:
        ValueError: The name is taken, or names a stack.
    """
    if method in _CHANGES or _STACK in method or not method:
        raise ValueError(f"a new name without {_STACK!r} expected for a method, found {method!r}")
    _CHANGES[method] = changes


def changes_of(method: str) -> Changes | None:
    """What a method, or a stack of methods, may change; ``None`` where one of them is not known."""
    known = known_methods()
    found = [known.get(name) for name in method.split(_STACK)]
    if any(changes is None for changes in found):
        return None
    return reduce(Changes.__or__, (changes for changes in found if changes is not None))


def check_method(patch: Patch) -> None:
    """Refuse a patch of a method that nobody registered, or with corrections that it does not make.

    Raises:
        InputError: It is one.
    """
    changes = changes_of(patch.method)
    if changes is None:
        raise InputError(f"the patch names method {patch.method[:40]!r}, expected {', '.join(known_methods())}")
    foreign = sorted({type(item).__name__ for item in patch.corrections} - changes.corrections)
    if foreign:
        raise InputError(
            f"the patch holds corrections that method {patch.method!r} does not make: {', '.join(foreign)}"
        )
