# SPDX-License-Identifier: Apache-2.0
"""The run-time branch in PyTorch: what the exported graph is checked against.

f(x) where its class is no target, or where g(x) gives the same class; else g(x), and the image is flagged
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from patcher.calibrate.classifier import Classifier, Rewrite
from patcher.patch import Branch, Realignment


def realignment_rewrite(classifier: Classifier, branch: Branch, rows: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    """Rewrites of the second pass, for images whose row of the statistics is `rows`, int64 ``(N,)``."""
    return {item.tensor: _realign(classifier, item, rows) for item in branch.corrections}


def _realign(classifier: Classifier, item: Realignment, rows: Tensor) -> Callable[[Tensor], Tensor]:
    parts = (item.scale, item.shift, item.upper, item.lower)
    scale, shift, upper, lower = (torch.from_numpy(part).to(classifier.device)[rows] for part in parts)
    return lambda value: torch.maximum(torch.minimum(scale * value + shift, upper), lower)


@torch.no_grad()
def run_branch(
    classifier: Classifier, branch: Branch, images: Tensor, *, rewrite: Rewrite | None = None
) -> tuple[Tensor, Tensor, Mapping[str, Tensor]]:
    """Run both passes.

    Args:
        classifier: The model.
        branch: The second pass.
        images: float32 ``(N, C, H, W)`` pixels.
        rewrite: Corrections of the first pass.

    Returns:
        Raw class scores ``(N, K)`` as the hardened model gives them, flags bool ``(N,)``, and all outputs of
        the first pass by name.
    """
    first = classifier.run(images, rewrite=rewrite)
    scores = first[classifier.model.logits].clone()
    classes = scores.flatten(1).argmax(dim=1)
    flags = torch.zeros(len(images), dtype=torch.bool, device=scores.device)
    for row, target in enumerate(branch.targets):
        chosen = torch.nonzero(classes == target).flatten()
        if len(chosen):
            rows = torch.full((1,), row, device=scores.device)
            second = classifier.run(images[chosen], rewrite=realignment_rewrite(classifier, branch, rows))
            other = second[classifier.model.logits]
            differs = other.flatten(1).argmax(dim=1) != target
            flags[chosen[differs]] = True
            scores[chosen[differs]] = other[differs].to(scores.dtype)
    return scores, flags, first
