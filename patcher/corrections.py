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


Correction = UpperBound | WeightMask | Bias | Affine | Normalization | Weights | Branch
CORRECTION_KINDS = frozenset(kind.__name__ for kind in get_args(Correction))
