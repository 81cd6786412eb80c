# SPDX-License-Identifier: Apache-2.0
"""A family of triggers: one way to change a picture, with parameters, a size and limits of its own.

A family is one file that subclasses `Family` and calls `register`. Nothing outside asks which family a trigger is
of: scan, trigger file, NFT, BNA, evaluate, gate and report work with whatever is registered, a stranger's included.

A family with few parameters is a sharp instrument: natural universal changes need many free pixels, a planted
trigger of the family's kind lies at once within its reach. Hence many small families rather than one large one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from patcher.errors import InputError
from patcher.triggers.arrays import Array, root_mean_square

if TYPE_CHECKING:
    from patcher.model.inputs import InputKind

Values = Mapping[str, Array]
Shape = tuple[int, ...]  # of a row: channels, height, width of a picture


@dataclass(frozen=True)
class Panel:
    """A picture of a trigger alone.

    Attributes:
        title: What it shows.
        values: ``(1 or 3, H, W)`` in [0, 1]; for ``arrows`` displacements ``(2, H, W)`` in pixels, down and right.
        kind: How to draw it.
    """

    title: str
    values: NDArray[np.float32]
    kind: Literal["picture", "arrows"] = "picture"


class Family(ABC):
    """One way to change pixels in [0, 1].

    A trigger's values are float32 arrays by name, `layout` says of which shapes. Functions take values of several
    triggers at once along a first axis, as NumPy arrays or torch tensors alike, and are differentiable.

    Attributes:
        name: Under which it is registered.
        unit: Of its size, for tables.
        rate: Learning rate of the search, in the units of `start`.
        cap: The largest relative size (see `largest`) that may be a planted trigger's.
        near: The largest relative size at which a change that misses a condition may still be suspicious; no more than
            `cap` counts.
        tiny: Relative size that is suspicious by itself.
        exponent: Power that makes ratios of sizes comparable across families: 1 for an area, 2 for an amplitude.
        expressive: Whether it sends images anywhere, given size: a search that reaches few targets was then too short.
        image_share: Of the search's images a step: few parameters need fewer.
        free_steps: Steps of the search that leave the size alone.
        kinds: Kinds of input that it can be put into, as `Model.kind` names them.
    """

    name: ClassVar[str]
    unit: ClassVar[str] = "rms"
    rate: ClassVar[float] = 0.01
    cap: ClassVar[float] = 0.05
    near: ClassVar[float] = 1.0
    tiny: ClassVar[float] = 0.0
    exponent: ClassVar[int] = 2
    expressive: ClassVar[bool] = False
    image_share: ClassVar[float] = 0.5
    free_steps: ClassVar[int] = 20
    kinds: ClassVar[tuple[InputKind, ...]] = ("picture",)

    @abstractmethod
    def layout(self, shape: Shape) -> dict[str, tuple[int, ...]]:
        """Shape of each array of a trigger for pictures of `shape`."""

    @abstractmethod
    def start(self, count: int, shape: Shape, rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
        """Where a search of `count` triggers starts; what the optimiser moves, float32 ``(count, ...)``."""

    def values(self, parameters: Values) -> dict[str, Array]:
        """What the optimiser moves to a trigger's values, within their ranges."""
        return dict(parameters)

    @abstractmethod
    def apply(self, images: Array, values: Values) -> Array:
        """Put triggers into pictures.

        Args:
            images: float32 ``(N, C, H, W)`` in [0, 1].
            values: One trigger a picture, arrays ``(N, ...)``, or one for all, ``(1, ...)``.

        Returns:
            Pixels of the same kind, shape and range.
        """

    def size(self, values: Values, images: Array) -> Array:
        """How large each trigger is, in `unit`, ``(G,)``: by default the rms of what it does to clean pictures.

        Args:
            values: Arrays ``(G, ...)``.
            images: A sample of clean pictures ``(M, C, H, W)``.
        """
        count, sample = len(next(iter(values.values()))), len(images)
        places = np.repeat(np.arange(count), sample)
        rows = {name: array[places] for name, array in values.items()}
        pictures = images[np.tile(np.arange(sample), count)]
        change = self.apply(pictures, rows) - pictures
        return root_mean_square(change.reshape(count, -1), (1,))

    def largest(self, shape: Shape) -> float:
        """The size that limits are shares of."""
        return 1.0

    @abstractmethod
    def amplify(self, values: Values, gain: float) -> dict[str, Array]:
        """The same trigger, stronger by a factor, within its range."""

    def candidates(self, shape: Shape) -> Sequence[Values]:
        """Triggers ``(1, ...)`` to be tried one by one, smallest first, where no gradient leads; else none."""
        return ()

    @abstractmethod
    def panels(self, values: Values, shape: Shape) -> list[Panel]:
        """What a person should see of one trigger, arrays ``(1, ...)``, beside pictures with it."""

    def describe(self, size: float, shape: Shape) -> str:
        """What a size means to a person."""
        return f"pixels change by {255 * size:.3g} of 255 (rms)"


_REGISTERED: dict[str, Family] = {}


def register(family: Family) -> Family:
    """Make a family known under its name; in place of an earlier one of that name."""
    _REGISTERED[family.name] = family
    return family


def families(kind: InputKind | None = None) -> tuple[str, ...]:
    """Names of all families, or of those for a kind of input, in the order of registration: cheap searches first."""
    import patcher.triggers.families  # noqa: F401  (registers the built-in ones)

    return tuple(name for name, family in _REGISTERED.items() if kind is None or kind in family.kinds)


def fitting_families(wanted: Sequence[str], kind: InputKind) -> tuple[str, ...]:
    """The families to search in a kind of input, in the order of registration.

    Args:
        wanted: Names; none for all that there are.
        kind: Of the model's input.

    Raises:
        InputError: One that was named cannot be put into such an input.
    """
    known = families(kind)
    if foreign := [name for name in wanted if name not in known]:
        raise InputError(f"--family: {', '.join(known)} expected for {kind} inputs, found {foreign[0]!r}")
    return tuple(name for name in known if name in wanted or not wanted)


def family_of(name: str) -> Family:
    """The family of that name.

    Raises:
        InputError: There is none.
    """
    known = families()
    if name not in _REGISTERED:
        raise InputError(f"trigger family {name!r} is unknown; known are {', '.join(known)}")
    return _REGISTERED[name]


def amplified_picture(change: NDArray[np.float32], what: str = "difference") -> Panel:
    """A change ``(C, H, W)`` around grey, amplified so that its largest value is seen."""
    gain = 0.5 / max(float(np.abs(change).max()), 1e-6)
    return Panel(f"{what} x {gain:.1f}", np.asarray(0.5 + gain * change, np.float32))
