# SPDX-License-Identifier: Apache-2.0
"""What every command shares, beside a method's own options."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from patcher.errors import InputError
from patcher.files import Source
from patcher.runtime import CPU_PROVIDER
from patcher.tasks import AUTO, task_of


@dataclass(frozen=True)
class Settings:
    """Shared settings.

    Attributes:
        seed: Of the split, the order of mini-batches and everything else that is random.
        device: ``auto``, ``cpu`` or ``cuda``: where calibration runs.
        batch_size: Images at a time; statistics do not depend on it.
        providers: ONNX Runtime execution providers for parity and evaluation.
        accuracy_floor: Refuse below this accuracy on the clean images, 0 to 1; ``None`` for twice chance.
        limit_per_class: Use at most so many clean images a class.
        classes_file: One class name a line, in the model's class order, or a ``config.json`` with ``id2label``.
        pseudo_labels: Take the model's own answers as labels where a source has none.
        min_held_out: Fewest images that may decide whether a patch holds.
        min_agreement: Smallest share of the clean images on which a hardened model must keep the original's class.
        again: Whether a model that was hardened before may be hardened again.
        scores: The output that holds the class scores; ``None`` for the one that data flow points to.
        task: What the scores mean: name of a task, or ``auto``.
    """

    seed: int = 0
    device: str = "auto"
    batch_size: int = 128
    providers: tuple[str, ...] = (CPU_PROVIDER,)
    accuracy_floor: float | None = None
    limit_per_class: int | None = None
    classes_file: Source | None = None
    pseudo_labels: bool = False
    min_held_out: int = 10
    min_agreement: float = 0.5
    again: bool = False
    scores: str | None = None
    task: str = AUTO

    def __post_init__(self) -> None:
        if self.task != AUTO:
            task_of(self.task)
        if self.batch_size < 1:
            raise InputError(f"--batch-size: at least 1 expected, found {self.batch_size}")
        if self.min_held_out < 1:
            raise InputError(f"--min-held-out: at least 1 expected, found {self.min_held_out}")
        if not 0 <= self.min_agreement <= 1:
            raise InputError(f"--min-agreement: 0 to 1 expected, found {self.min_agreement}")
        if self.seed < 0:
            raise InputError(f"--seed: 0 or more expected, found {self.seed}")
        if self.device not in ("auto", "cpu", "cuda") and not self.device.startswith("cuda:"):
            raise InputError(f"--device: auto, cpu or cuda expected, found {self.device!r}")
        if self.accuracy_floor is not None and not 0 <= self.accuracy_floor <= 1:
            raise InputError(f"--accuracy-floor: 0 to 1 expected, found {self.accuracy_floor}")


def split_options(options: Mapping[str, Any]) -> tuple[Settings, dict[str, Any]]:
    """Separate shared settings from a method's own options.

    Returns:
        The settings, and what is left for the method.
    """
    shared = {part.name for part in fields(Settings)}
    settings = Settings(**{name: value for name, value in options.items() if name in shared})
    return settings, {name: value for name, value in options.items() if name not in shared}


def settings_alone(command: str, options: Mapping[str, Any]) -> Settings:
    """Shared settings of a command that has no options of its own.

    Raises:
        InputError: There is another option.
    """
    settings, rest = split_options(options)
    refuse_unknown(command, rest, ())
    return settings


def refuse_unknown(where: str, options: Iterable[str], known: Iterable[str]) -> None:
    """Check the names of options.

    Raises:
        InputError: One of `options` is not `known`.
    """
    if unknown := sorted(set(options) - set(known)):
        raise InputError(f"{where}: unknown options {', '.join(unknown)}")
