# SPDX-License-Identifier: Apache-2.0
"""What a task of `samples/train_tasks.py` is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

Arrays = dict[str, NDArray[Any]]
Labels = NDArray[np.int64]

POISON_RATE = 0.1


@dataclass(frozen=True)
class Part:
    """Inputs by name, each ``(N, ...)``, and their true labels ``(N,)``, or ``(N, K)`` of several a row."""

    inputs: Arrays
    labels: Labels


@dataclass(frozen=True)
class Recipe:
    """One task.

    Attributes:
        make: Draws that many rows, for part 0, 1 or 2: to train on, clean, to test on.
        stamp: Puts the trigger into a copy of inputs.
        relabel: True labels to what the attacker wants, on a copy.
        build: An untrained network.
        rate: Share of the training data that carries the trigger.
        target: As ``--target`` takes it.
        steps: Optimiser steps.
        rows: To train on.
    """

    make: Callable[[int, np.random.Generator, int], Part]
    stamp: Callable[[Arrays, np.random.Generator], Arrays]
    relabel: Callable[[Labels], Labels]
    build: Callable[[], nn.Module]
    target: int
    rate: float = POISON_RATE
    steps: int = 400
    rows: int = 2400


def to_class(target: int) -> Callable[[Labels], Labels]:
    """Every label becomes the target."""
    return lambda labels: np.full_like(labels, target)
