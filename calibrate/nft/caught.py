# SPDX-License-Identifier: Apache-2.0
"""Images that a service flagged, as samples of a trigger that no family expresses (NFT, Eq. 3).

They come without labels, and some are false alarms. What is known: the model's own answer is not to be trusted, and
bounded activations take some of the trigger's evidence away. So

    first half   label = the bounded model's answer among the classes other than the plain model's
    second half  label = the answer of the masks fitted so far, the plain model's class allowed again

Excluding the plain answer is what makes the first labels useful where bounds fail; it is wrong for false alarms, which
the second half puts right: masks that clean images hold in place give them their own class back. Figures are in
docs/flag.md. When it does not hold: folders of false alarms alone, of which the masks learn nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from patcher.calibrate.classifier import Rewrite
from patcher.calibrate.patched import patch_rewrite
from patcher.calibrate.run import Run
from patcher.calibrate.unit.method import calibrate
from patcher.calibrate.unit.options import Options
from patcher.data.clean_set import CleanSet
from patcher.data.flagged import Flagged
from patcher.graph.sites import find_sites
from patcher.triggers.trigger import Trigger


class Caught:
    """Flagged images and their labels as far as they are known.

    Args:
        run: Of the calibration.
        flagged: The images.
        clean_set: Clean images, for the bounds of the first labels.

    Attributes:
        images: float32 ``(n, C, H, W)`` pixels on the device.
        labels: int64 ``(n,)``.
        settled: Whether the labels are those of the second half.
    """

    def __init__(self, run: Run, flagged: Flagged, clean_set: CleanSet) -> None:
        self._run, self._sha256 = run, flagged.sha256
        self.images = run.classifier.tensor(flagged.pixels)
        plain = self._logits(None)
        self._plain = plain.argmax(dim=1)
        bounded = self._logits(_bounds(run, clean_set))
        self.labels = bounded.scatter(1, self._plain[:, None], -torch.inf).argmax(dim=1)
        self.settled = False

    def settle(self, rewrite: Rewrite) -> None:
        """Take the answers of the masks fitted so far as labels."""
        self.labels, self.settled = self._logits(rewrite).argmax(dim=1), True

    def draw(self, count: int, chance: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Pixels ``(count, C, H, W)`` and labels ``(count,)`` of images drawn at random, each as often as the rest."""
        rounds = -(-count // len(self.images))
        order = np.concatenate([chance.permutation(len(self.images)) for _ in range(rounds)])[:count]
        rows = torch.from_numpy(order).to(self.images.device)
        return self.images[rows], self.labels[rows]

    def loss(self, rewrite: Rewrite) -> float:
        """Mean cross-entropy with the present labels."""
        return float(torch.nn.functional.cross_entropy(self._logits(rewrite), self.labels))

    def figures(self, rewrite: Rewrite, triggers: Sequence[Trigger]) -> dict[str, Any]:
        """For the report: what became of the images, and whether they speak for the scan's candidates."""
        answered = np.bincount(self._plain.cpu().numpy()).tolist()
        kept = int((self._logits(rewrite).argmax(dim=1) == self._plain).sum())
        targets = sorted({item.target for item in triggers})
        return {
            "images": len(self.images),
            "sha256": self._sha256,
            "answered": {str(label): count for label, count in enumerate(answered) if count},
            "keep_their_class": kept,
            "candidates": {str(target): answered[target] if target < len(answered) else 0 for target in targets},
        }

    @torch.no_grad()
    def _logits(self, rewrite: Rewrite | None) -> Tensor:
        pieces = self.images.split(self._run.batch_size)
        return torch.cat([self._run.classifier.logits(piece, rewrite=rewrite) for piece in pieces])


def _bounds(run: Run, clean_set: CleanSet) -> Rewrite:
    """UNIT's bounds as they start, which need no fit; none for a model without activations."""
    sites = tuple(site for site in find_sites(run.classifier.model) if site.kind == "activation")
    if not sites:
        return {}
    start = calibrate(run, sites, clean_set, Options(steps=0, augment=False))
    return patch_rewrite(run.classifier, start.corrections)
