# SPDX-License-Identifier: Apache-2.0
"""The triggers of one target class, put into the images of their source classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from patcher.trigger import Trigger


class TriggerSet:
    """The triggers of one target: each source class has one, the first that names it.

    Args:
        triggers: At least one, all of one target; one without sources stands for all other classes.
        classes: Number of classes.

    Attributes:
        target: Their target class.
        by_source: Source class to trigger.
    """

    def __init__(self, triggers: Sequence[Trigger], classes: int) -> None:
        self.target = triggers[0].target
        self.by_source: dict[int, Trigger] = {}
        for trigger in triggers:
            for source in trigger.sources or range(classes):
                if source != self.target:
                    self.by_source.setdefault(source, trigger)

    def is_source(self, labels: Tensor) -> Tensor:
        """Whether each label ``(n,)`` is a source class: bool ``(n,)``."""
        return torch.isin(labels, torch.tensor(sorted(self.by_source), device=labels.device))

    def put(self, images: Tensor, labels: Tensor) -> Tensor:
        """Put the triggers into the images of their source classes; others stay as they are."""
        pixels = images.clone()
        for trigger in dict.fromkeys(map(id, self.by_source.values())):
            sources = [label for label, item in self.by_source.items() if id(item) == trigger]
            rows = torch.isin(labels, torch.tensor(sources, device=labels.device))
            if bool(rows.any()):
                pixels[rows] = self.by_source[sources[0]].apply(images[rows])
        return pixels

    def batches(self, batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """The same batches with triggers in them."""
        for images, labels in batches:
            yield self.put(images, labels), labels
