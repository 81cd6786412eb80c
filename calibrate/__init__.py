# SPDX-License-Identifier: Apache-2.0
"""Calibration: one room a method. PyTorch on the patcher ground floor; never edits ONNX.

    run, training, minibatches      the run that a stage belongs to; the fit loop and the problem it takes
    classifier, patched             the graph from pixels to logits; the same with a patch's corrections
    statistics, best_state          moments of activations; the state to keep under the accuracy condition
    augmentation, triggered         pictures near the clean ones; pictures with estimated triggers
    options, findings               checks and types that options share; what an audit found
    stack                           methods one on top of another
    unit/ nft/ bna/ none/           the methods: ``method``, ``options``, and what they are made of
    audit/ scan/                    poisoned training images; triggers

A method is a module with two parts, loaded on first use, so that listing the methods costs no import of torch:
``<module>.options`` holds the frozen dataclass ``Options`` and imports no torch, ``<module>.method`` holds the function
``calibrate(run, sites, clean_set, options) -> Calibration``. A method of another package is registered by `register`,
or found by itself where the package declares an entry point in the group ``patcher.methods`` that is a `Method`.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from patcher.graph.site import SiteKind
from patcher.patch import Correction

if TYPE_CHECKING:
    from patcher.calibrate.findings import Findings

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Method:
    """A method's entry.

    Attributes:
        name: As given to ``--method``.
        site_kind: The kind of site it acts on.
        summary: One line for help texts and `patcher inspect`.
        data: What it is fitted on: ``clean`` images, or the ``training`` set.
        module: The package that holds ``options`` and ``method``; empty for the room of this name here.
        least_classes: Fewest classes that its clean images must show.
        place: In a stack of methods: one that adds a second pass comes ``last``, one that needs a training set
            stands ``alone``.
    """

    name: str
    site_kind: SiteKind
    summary: str
    data: Literal["clean", "training"] = "clean"
    module: str = ""
    least_classes: int = 2
    place: Literal["anywhere", "last", "alone"] = "anywhere"

    def options(self) -> type[Any]:
        """The method's ``Options`` dataclass; needs no torch."""
        return cast("type[Any]", importlib.import_module(f"{self._room}.options").Options)

    def load(self) -> MethodModule:
        """Import the method's module: its ``Options`` dataclass and its ``calibrate`` function."""
        return cast("MethodModule", importlib.import_module(f"{self._room}.method"))

    @property
    def _room(self) -> str:
        return self.module or f"{__name__}.{self.name}"


ENTRY_POINTS = "patcher.methods"
_methods: dict[str, Method] = {}
METHODS: Mapping[str, Method] = MappingProxyType(_methods)
"""All methods by name, those of this package first."""


def register(method: Method) -> None:
    """Add a method.

    Raises:
        ValueError: Another method has this name.
    """
    if _methods.setdefault(method.name, method) != method:
        raise ValueError(f"a method {method.name!r} is registered already")


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
        held_out_before: Held-out accuracy of the original model, 0 to 1.
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


def _register_installed() -> None:
    """Register what other packages declare; one that cannot be loaded is named in a warning and left out."""
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            register(entry.load())
        except (ImportError, AttributeError, ValueError) as error:
            _log.warning("the method %s (%s) is left out: %s", entry.name, entry.value, error)


register(Method("unit", "activation", "a tight upper bound per neuron (Cheng et al., ECCV 2024)", least_classes=1))
register(Method("nft", "channel", "a mask per channel (Karim et al., ECCV 2024)"))
register(
    Method("bna", "channel", "a second pass that answers and flags triggered images (Li et al., 2023)", place="last")
)
register(
    Method(
        "none", "channel", "repair with the suspect training set (Wang et al., NeurIPS 2022)", "training", place="alone"
    )
)
_register_installed()
