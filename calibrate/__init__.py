# SPDX-License-Identifier: Apache-2.0
"""Calibration: one file a method. PyTorch on the patcher ground floor; never edits ONNX.

A method is a frozen dataclass of options and one function ``calibrate``, in a module of its own that is
named here and loaded on first use, so that listing the methods costs no import of torch.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from patcher.graph.site import SiteKind
from patcher.patch import Correction

if TYPE_CHECKING:
    from patcher.calibrate.findings import Findings


@dataclass(frozen=True)
class Method:
    """A method's entry.

    Attributes:
        name: As given to ``--method``.
        site_kind: The kind of site it acts on.
        summary: One line for help texts and `patcher inspect`.
        data: What it is fitted on: ``clean`` images, or the ``training`` set.
    """

    name: str
    site_kind: SiteKind
    summary: str
    data: Literal["clean", "training"] = "clean"

    def options(self) -> type[Any]:
        """The method's ``Options`` dataclass; needs no torch."""
        return cast("type[Any]", importlib.import_module(f"{__name__}.{self.name}.options").Options)

    def load(self) -> MethodModule:
        """Import the method's module: its ``Options`` dataclass and its ``calibrate`` function."""
        return cast("MethodModule", importlib.import_module(f"{__name__}.{self.name}.method"))


METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method("unit", "activation", "a tight upper bound per neuron (Cheng et al., ECCV 2024)"),
        Method("nft", "channel", "a mask per channel (Karim et al., ECCV 2024)"),
        Method("bna", "channel", "a second pass that answers and flags triggered images (Li et al., 2023)"),
        Method("none", "channel", "repair with the suspect training set (Wang et al., NeurIPS 2022)", "training"),
    )
}


class MethodModule(Protocol):
    """What the module of a method holds."""

    Options: type[Any]
    calibrate: Callable[..., Calibration]


@dataclass(frozen=True)
class Calibration:
    """What a method found.

    Attributes:
        corrections: The patch's corrections, in graph order.
        satisfied: Whether the accuracy condition was met on held-out images by exactly these corrections.
        held_out_before: Held-out accuracy of the model as it came, 0 to 1.
        held_out_after: Held-out accuracy with the corrections, 0 to 1.
        curve: One entry a measurement: ``step`` and the quantities measured then.
        summary: Further figures as plain JSON values.
        reference_images: Further images, float32 ``(n, C, H, W)`` pixels, on which the exported model must
            answer as the corrections do in PyTorch.
        findings: Suspected training images, of methods that look for them.
    """

    corrections: tuple[Correction, ...]
    satisfied: bool
    held_out_before: float
    held_out_after: float
    curve: tuple[Mapping[str, float], ...] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)
    reference_images: NDArray[np.float32] | None = None
    findings: Findings | None = None


class _Command(ModuleType):
    """`patcher.calibrate` is this package and, as `patcher.harden` is, the command of its name."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return importlib.import_module("patcher.commands.calibrate").calibrate(*arguments, **options)


sys.modules[__name__].__class__ = _Command
