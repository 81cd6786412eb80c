# SPDX-License-Identifier: Apache-2.0
"""The triggers of one target class, put into the images of their source classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from patcher.calibrate.triggered import stamp
from patcher.trigger import Trigger


class TriggerSet:
    """The triggers of one target; where a class is a source of several, each of its images takes one of them.

    Args:
        triggers: At least one, all of one target; one without sources stands for all other classes.
        classes: Number of classes.

    Attributes:
        target: Their target class.
        sources: Their source classes, in order.
    """

    def __init__(self, triggers: Sequence[Trigger], classes: int) -> None:
        self._triggers, self.target = triggers, triggers[0].target
        named = {source for trigger in triggers for source in trigger.sources or range(classes)}
        self.sources = tuple(sorted(named - {self.target}))

    def is_source(self, labels: Tensor) -> Tensor:
        """Whether each label ``(n,)`` is a source class: bool ``(n,)``."""
        return torch.isin(labels, torch.tensor(self.sources, device=labels.device))

    def put(self, images: Tensor, labels: Tensor) -> Tensor:
        """Put the triggers into the images of their source classes; others stay as they are."""
        return stamp(images, labels, self._triggers, None)[0]

    def batches(self, batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """The same batches with triggers in them."""
        for images, labels in batches:
            yield self.put(images, labels), labels
