# SPDX-License-Identifier: Apache-2.0
"""A measured quantity before and after hardening."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from patcher.measure.scores import Share

Quantity = TypeVar("Quantity")


@dataclass(frozen=True)
class Change(Generic[Quantity]):
    """One quantity of the original and of the hardened model, over the same images."""

    before: Quantity
    after: Quantity


@dataclass(frozen=True)
class AttackChange:
    """ASR (triggered images that get the target) and SIA (that get their true class), before and after."""

    asr: Change[Share]
    sia: Change[Share]
