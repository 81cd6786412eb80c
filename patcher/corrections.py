# SPDX-License-Identifier: Apache-2.0
"""The kinds of correction that a patch is made of, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True)
class UpperBound:
    """``min(tensor, bound)`` behind an activation site (UNIT, Cheng et al., ECCV 2024, Sec. 4).

    Attributes:
        tensor: Name of the bounded tensor.
        bound: float32, of the tensor's rank with a leading 1 (``(1, C, 1, 1)`` per channel,
            ``(1, C, H, W)`` per element), or of rank 0 for one bound for the whole tensor.
    """

    tensor: str
    bound: Array


@dataclass(frozen=True)
class MeanBound:
    """``tensor * bound / max(mean, bound)`` behind an activation site, with the mean over the places of each picture.

    A map whose mean exceeds its bound is scaled down as a whole; every other map stays as it is.

    Attributes:
        tensor: Name of the bounded tensor.
        bound: float32, positive and finite, of the tensor's rank, 1 on every axis but the channels': ``(1, C, 1, 1)``.
    """

    tensor: str
    bound: Array


MaskForm = Literal["mask", "weights"]


@dataclass(frozen=True)
class WeightMask:
    """``initializer * mask`` (NFT, Karim et al., ECCV 2024, Sec. 4).

    Attributes:
        initializer: Name of the masked weight, or of a constant tensor made from one.
        mask: float32, of the weight's rank, 1 on every axis but the output channels'.
        form: How it is baked: ``mask`` as a product that the runtime folds, ``weights`` into the values.
    """

    initializer: str
    mask: Array
    form: MaskForm = "mask"


@dataclass(frozen=True)
class Bias:
    """``bias + shift`` of the linear operator or BatchNormalization that makes a tensor.

    Attributes:
        tensor: Name of the operator's output.
        shift: float32, of the tensor's rank with a leading 1, 1 on every axis but the channels'.
    """

    tensor: str
    shift: Array


@dataclass(frozen=True)
class Affine:
    """``scale * tensor + shift`` behind a channel site.

    Attributes:
        tensor: Name of the corrected tensor.
        scale: float32, of the tensor's rank with a leading 1.
        shift: float32, same shape.
    """

    tensor: str
    scale: Array
    shift: Array


@dataclass(frozen=True)
class Normalization:
    """New running statistics for a BatchNormalization.

    Attributes:
        tensor: Name of the BatchNormalization's output (node names may be missing or repeated).
        mean: float32 ``(C,)``.
        var: float32 ``(C,)``.
    """

    tensor: str
    mean: Array
    var: Array


@dataclass(frozen=True)
class Weights:
    """A new value for an initializer, of its shape and type (NONE, Wang et al., NeurIPS 2022)."""

    initializer: str
    value: NDArray[Any]


@dataclass(frozen=True)
class Realignment:
    """``max(min(scale * tensor + shift, upper), lower)`` in a second pass (BNA, Li et al., Sec. 4).

    Attributes:
        tensor: Name of the corrected tensor.
        scale: float32, of the tensor's rank, its first axis the targets of the `Branch`: ``(T, C, 1, 1)``.
        shift: float32, same shape.
        upper: float32, same shape; infinite where there is no bound.
        lower: float32, same shape.
    """

    tensor: str
    scale: Array
    shift: Array
    upper: Array
    lower: Array


BranchForm = Literal["if", "where", "two-files"]


@dataclass(frozen=True)
class Branch:
    """A second pass over the same weights for images that get a detected target class (BNA).

    Attributes:
        targets: Detected target classes, ascending; row i of every `Realignment` belongs to ``targets[i]``.
        corrections: What is different in the second pass, in graph order.
        form: How it is baked: ``if`` runs it on the rows that need it and not at all where none does,
            ``where`` on every row, ``two-files`` in a model of its own.
        keep_original_output: Whether the uncorrected class scores are an output too.
    """

    targets: tuple[int, ...]
    corrections: tuple[Realignment, ...]
    form: BranchForm = "if"
    keep_original_output: bool = False

    def __post_init__(self) -> None:
        if not self.targets or not all(type(target) is int for target in self.targets):
            raise ValueError(f"target classes expected, found {str(self.targets)[:40]}")
        if list(self.targets) != sorted(set(self.targets)):
            raise ValueError(f"ascending target classes expected, found {str(self.targets)[:40]}")
        if not all(isinstance(item, Realignment) for item in self.corrections):
            raise ValueError("a branch takes realignments only")
        if self.form not in get_args(BranchForm):
            raise ValueError(f"a form of a branch expected, found {str(self.form)[:40]!r}")


@dataclass(frozen=True)
class Watch:
    """What is usual at one activation site, and the bound of the second view.

    Attributes:
        tensor: Name of the watched tensor.
        mean: float32, over clean images, of the tensor's rank with a leading 1, as `UpperBound.bound`.
        std: float32, same shape, positive.
        bound: float32, same shape.
    """

    tensor: str
    mean: Array
    std: Array
    bound: Array

    def __post_init__(self) -> None:
        if not np.isfinite(self.mean).all() or not (np.isfinite(self.std).all() and (self.std > 0).all()):
            raise ValueError(f"a finite mean and a positive deviation expected at {self.tensor[:80]!r}")
        if np.isnan(self.bound).any():
            raise ValueError(f"a bound expected at {self.tensor[:80]!r}, found NaN")


@dataclass(frozen=True)
class Flag:
    """A second view of the image under upper bounds, and a score of how unusual the image is.

    excess     = largest standard score at any site, (max (x - mean) / std - level mean) / level std
    divergence = log(KL(answer under bounds || answer) + 1e-3), where the excess is above `gate`
    score      = sum over both of max(0, slope * value + intercept); flagged above `threshold`

    Attributes:
        sites: What is watched, in graph order.
        levels: float32 ``(S, 2)``: mean and standard deviation of each site's largest standard score.
        tails: float32 ``(2, 2)``: slope and intercept, of the excess and of the divergence.
        gate: Excess above which the second view is asked.
        threshold: Score above which an image is flagged and answered by the second view.
        form: How it is baked, as for `Branch`.
    """

    sites: tuple[Watch, ...]
    levels: Array
    tails: Array
    gate: float
    threshold: float
    form: BranchForm = "if"

    def __post_init__(self) -> None:
        if not self.sites or not all(isinstance(item, Watch) for item in self.sites):
            raise ValueError("a flag watches sites only")
        if self.levels.shape != (len(self.sites), 2) or not (self.levels[:, 1] > 0).all():
            raise ValueError(f"two numbers a site expected, found shape {self.levels.shape}")
        if self.tails.shape != (2, 2) or not (self.tails[:, 0] >= 0).all() or not np.isfinite(self.tails).all():
            raise ValueError("two finite tails that do not fall expected")
        for name, value in (("gate", self.gate), ("threshold", self.threshold)):
            if not isinstance(value, int | float) or np.isnan(value):
                raise ValueError(f"a number expected as {name}, found {str(value)[:40]!r}")
        if self.form not in get_args(BranchForm):
            raise ValueError(f"a form of a flag expected, found {str(self.form)[:40]!r}")


Correction = UpperBound | MeanBound | WeightMask | Bias | Affine | Normalization | Weights | Branch | Flag
Part = Realignment | Watch
"""What a `Branch` or a `Flag` is made of."""
CORRECTION_KINDS = frozenset(kind.__name__ for kind in get_args(Correction))
