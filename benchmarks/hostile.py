# SPDX-License-Identifier: Apache-2.0
"""Hardened files of every form of the sound model, and what the gate does with one before it measures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from patcher.data.preprocess import resolve_preprocess
from patcher.export.bake import bake_patch
from patcher.gate.interface import interface_check
from patcher.gate.policy import Accept, Policy
from patcher.gate.reconstruction import reconstruct, reconstruction_check
from patcher.gate.structure import structure_checks
from patcher.gate.subject import Given, Subject, read_hardened
from patcher.model.file import serialize
from patcher.model.model import Model
from patcher.model.provenance import read_provenance
from patcher.patch import Bias, Branch, Flag, Patch, Realignment, UpperBound, Watch, WeightMask, Weights
from patcher.settings import Settings


def patches(model: Model) -> dict[str, Patch]:
    """A patch for the sound model for every form of a hardened file."""

    def channels(value: float) -> Any:
        return np.full((1, 4, 1, 1), value, np.float32)

    realigned = (Realignment("c1", channels(0.5), channels(0.1), channels(2), channels(-2)),)
    watched = (Watch("r1", channels(0), channels(1), channels(2)),)
    bounds = UpperBound("r1", channels(1)), UpperBound("r2", channels(2))
    masked = WeightMask("w1", np.full((4, 1, 1, 1), 0.5, np.float32)), Bias("c1", channels(0.1))
    ones = np.ones((2, 2), np.float32)
    forms: dict[str, tuple[str, tuple[Any, ...]]] = {
        "unit": ("unit", bounds),
        "folded": ("unit", bounds),
        "flag": ("unit", (Flag(watched, ones[:1], ones, 1.0, 2.0),)),
        "nft": ("nft", masked),
        "bna-if": ("bna", (Branch((1,), realigned),)),
        "bna-where": ("bna", (Branch((1,), realigned, "where"),)),
        "none": ("none", (Weights("fc", np.ones((3, 4), np.float32)),)),
    }
    seen = resolve_preprocess(model).as_json()
    return {name: Patch(method, model.sha256, found, {}, "0" * 64, seen) for name, (method, found) in forms.items()}


def hardened(model: Model) -> dict[str, bytes]:
    """The file of each patch."""
    return {
        name: serialize(bake_patch(model, patch, "folded" if name == "folded" else "nodes").model)
        for name, patch in patches(model).items()
    }


def proof(model: Model) -> Callable[[Path], object]:
    """What the gate does with a hardened file of a model before it measures."""
    policy, settings = Policy(accept=Accept(True, True)), Settings()
    # Nothing of the images is asked here.
    prepared: Any = SimpleNamespace(model=model)

    def prove(path: Path) -> object:
        read = read_hardened(path, settings)
        subject = Subject(prepared, read, Given(), policy, settings, read_provenance(read.proto), "", None, "")
        again = reconstruct(subject)
        return reconstruction_check(subject, again, interface_check(subject)), structure_checks(subject, again)

    return prove
