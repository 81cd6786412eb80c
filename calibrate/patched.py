# SPDX-License-Identifier: Apache-2.0
"""A patch in PyTorch: each correction as a rewrite of the tensor it names.

This is the reference that the exported graph is checked against. A second pass is run beside the first:

    f(x) where its class is no target, or where g(x) gives the same class; else g(x), and the image is flagged
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from patcher.calibrate.classifier import Classifier, Rewrite
from patcher.errors import CalibrationError
from patcher.patch import Affine, Bias, Branch, Correction, Normalization, Realignment, UpperBound, WeightMask, Weights

Function = Callable[[Tensor], Tensor]


def patch_rewrite(classifier: Classifier, corrections: Iterable[Correction]) -> dict[str, Function]:
    """Rewrites by tensor name, for `Classifier.run`.

    Args:
        classifier: The model the patch is for; gives device and the names of statistics.
        corrections: Of one patch; several corrections of one tensor are applied in order.

    Raises:
        CalibrationError: A corrected BatchNormalization is not in the graph.
    """
    rewrites: dict[str, Function] = {}
    for correction in corrections:
        for name, function in _rewrites(classifier, correction):
            rewrites[name] = _after(rewrites[name], function) if name in rewrites else function
    return rewrites


def _rewrites(classifier: Classifier, correction: Correction) -> list[tuple[str, Function]]:
    def constant(value: object) -> Tensor:
        return torch.as_tensor(value, dtype=torch.float32).to(classifier.device)

    match correction:
        case UpperBound(tensor, bound):
            limit = constant(bound)
            return [(tensor, lambda value: torch.minimum(value, limit))]
        case WeightMask(initializer, mask):
            factor = constant(mask)
            return [(initializer, lambda value: value * factor)]
        case Bias(tensor, shift):
            offset = constant(shift)
            return [(tensor, lambda value: value + offset)]
        case Affine(tensor, scale, shift):
            factor, offset = constant(scale), constant(shift)
            return [(tensor, lambda value: value * factor + offset)]
        case Weights(initializer, value):
            replacement = constant(value)
            return [(initializer, lambda _: replacement)]
        case Branch():
            raise CalibrationError("a second pass is no rewrite of the first; see run_branch")
        case Normalization(tensor, mean, var):
            names = _statistics(classifier, tensor)
            return [(name, _replace(constant(value))) for name, value in zip(names, (mean, var), strict=True)]


def _statistics(classifier: Classifier, tensor: str) -> tuple[str, str]:
    """Names of the running mean and variance of the BatchNormalization that makes `tensor`."""
    for node in classifier.model.proto.graph.node:
        if node.op_type == "BatchNormalization" and node.output[0] == tensor:
            return node.input[3], node.input[4]
    raise CalibrationError(f"no BatchNormalization makes {tensor!r}; the patch is for another model")


def _replace(value: Tensor) -> Function:
    return lambda _: value


def _after(first: Function, second: Function) -> Function:
    return lambda value: second(first(value))


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
